// How a product over many rows is cut, so that all multiprocessors have work and little is added up afterwards.
#pragma once

#include <stdint.h>

namespace awpf {

// The number of ranges of `slabs` that finishes first: every block of threads takes a tile and a range, as many blocks
// as there are multiprocessors run at once, and a range costs `overhead` slabs beside its own.
inline int64_t choose_split_k(int64_t tiles, int64_t slabs, int64_t multiprocessors, int64_t overhead) {
  int64_t best = 1, least = INT64_MAX;
  for (int64_t splits = 1; splits <= 128 && (splits == 1 || splits * overhead <= slabs); ++splits) {
    const int64_t rounds = (tiles * splits + multiprocessors - 1) / multiprocessors;
    const int64_t cost = rounds * ((slabs + splits - 1) / splits + overhead);
    if (cost < least) {
      least = cost;
      best = splits;
    }
  }
  return best;
}

}  // namespace awpf
