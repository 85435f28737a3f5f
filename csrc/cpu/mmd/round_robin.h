// The order in which pairs of panels are processed, so that no two threads ever write to the same panel.
//
// Every panel occurs at most once in a round. Rounds follow each other; the pairs of one round run in parallel. Each
// panel therefore has one writer at a time and receives its contributions in a fixed order.
#pragma once

#include <stdint.h>

#include <algorithm>
#include <vector>

namespace awpf {

// Two panels of one member of a batch.
struct Pair {
  std::size_t member;
  int64_t row_panel, column_panel;
};

// Round k holds round k of every member of the batch.
using Rounds = std::vector<std::vector<Pair>>;

// All pairs of `panels` panels, each pair once, and every panel with itself (in round 0). This is the circle method for
// round-robin tournaments: the last seat stays, the others rotate, and with an odd number of panels one pauses.
inline void add_round_robin(Rounds& rounds, std::size_t member, int64_t panels) {
  const int64_t seats = panels + panels % 2;
  rounds.resize(std::max(rounds.size(), std::size_t(std::max<int64_t>(1, seats))));
  for (int64_t i = 0; i < panels; ++i) rounds[0].push_back({member, i, i});
  for (int64_t round = 1; round < seats; ++round)
    for (int64_t k = 0; k < seats / 2; ++k) {
      const int64_t left = k == 0 ? seats - 1 : (round + k) % (seats - 1);
      const int64_t right = (round + seats - 1 - k) % (seats - 1);
      if (left < panels && right < panels)
        rounds[round].push_back({member, std::max(left, right), std::min(left, right)});
    }
}

// All pairs of a row panel and a column panel: in every round the columns move on by one.
inline void add_all_against_all(Rounds& rounds, std::size_t member, int64_t row_panels, int64_t column_panels) {
  const int64_t count = std::max(row_panels, column_panels);
  if (row_panels == 0 || column_panels == 0) return;
  rounds.resize(std::max(rounds.size(), std::size_t(count)));
  for (int64_t round = 0; round < count; ++round)
    for (int64_t k = 0; k < count; ++k)
      if (k < row_panels && (k + round) % count < column_panels)
        rounds[round].push_back({member, k, (k + round) % count});
}

}  // namespace awpf
