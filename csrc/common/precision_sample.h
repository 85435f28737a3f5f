// The rows that the choice of precision looks at: the same ones on every device.
#pragma once

#include "common/precision.h"
#include "common/shuffle.h"

namespace awpf {

// Of a pool of rows. The pool has no more than 2^32 - 1 rows.
AWPF_HOST_DEVICE inline ShuffleKey sample_key(uint64_t pool) { return shuffle_key(0x5eed, 0, pool); }

// The position in the pool of row number k of the sample.
AWPF_HOST_DEVICE inline uint32_t sampled_position(int k, uint32_t pool, const ShuffleKey& key) {
  return shuffled(uint32_t(k), pool, key);
}

// Two different rows of a group of at least two, by their numbers within it: pair number k of group number `group`.
struct RowPair {
  int64_t first, second;
};
AWPF_HOST_DEVICE inline RowPair sampled_pair(int64_t group, int k, int64_t rows) {
  const uint64_t random = splitmix64(splitmix64(uint64_t(group)) + uint64_t(k));
  const int64_t first = int64_t(random % uint64_t(rows));
  const int64_t by = 1 + int64_t(splitmix64(random) % uint64_t(rows - 1));
  return {first, (first + by) % rows};
}

}  // namespace awpf
