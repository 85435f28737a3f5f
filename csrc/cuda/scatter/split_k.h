// Split-K: how a product over many rows is divided, so that all multiprocessors have work and little is left to add up.
#pragma once

#include <stdint.h>

namespace awpf {

// The number of splits of `slabs` slabs that takes the least time. Each thread block takes a tile and a split, as many
// blocks as there are multiprocessors run at once, and a split takes the time of `overhead` slabs beside its own.
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
