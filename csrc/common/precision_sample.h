// The rows that the choice of precision looks at: the same ones on every device.
#pragma once

#include "common/precision.h"
#include "common/shuffle.h"

namespace awpf {

// Of a pool of rows. The pool has no more than 2^32 - 1 rows.
AWPF_HOST_DEVICE inline ShuffleKey sample_key(uint64_t pool) { return shuffle_key(0x5eed, 0, pool); }

// The position in the pool of row number k of the sample. If there are more than two groups, most pairs of rows are of
// different groups, while the sums within a group count as much: every second row is then of the group of the row
// before it, at partner_in_group(position of that row).
AWPF_HOST_DEVICE inline uint32_t sampled_position(int k, uint32_t pool, bool in_pairs, const ShuffleKey& key) {
  return shuffled(uint32_t(in_pairs ? k / 2 : k), pool, key);
}
AWPF_HOST_DEVICE inline int64_t partner_in_group(int64_t position, int64_t group_begin, int64_t group_length) {
  if (group_length < 2) return position;
  const int64_t by = 1 + int64_t(splitmix64(uint64_t(position)) % uint64_t(group_length - 1));
  return group_begin + (position - group_begin + by) % group_length;
}

}  // namespace awpf
