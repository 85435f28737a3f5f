// Counter-based random permutations: a keyed bijection maps each element to its permuted one, the same on every device,
// without state, sort or array. It is an alternating Feistel network over the next power of two. Results outside [0, n)
// are mapped again until they are inside ("cycle walking"), which keeps it a uniform bijection of [0, n).
#pragma once

#include "common/precision.h"

namespace awpf {

struct ShuffleKey {
  static constexpr int kRounds = 16;
  uint32_t round[kRounds];
  uint32_t left_bits, right_bits;
};

AWPF_HOST_DEVICE inline uint64_t splitmix64(uint64_t x) {
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

// The key of permutation number `counter` of `seed`, for n elements (n < 2^32).
AWPF_HOST_DEVICE inline ShuffleKey shuffle_key(uint64_t seed, uint64_t counter, uint64_t n) {
  uint32_t bits = 8;  // with fewer bits a Feistel network has too few permutations
  while ((uint64_t(1) << bits) < n) ++bits;
  ShuffleKey key;
  key.left_bits = bits / 2;
  key.right_bits = bits - bits / 2;
  uint64_t state = splitmix64(splitmix64(seed) ^ counter);
  for (int r = 0; r < ShuffleKey::kRounds; ++r) {
    state = splitmix64(state);
    key.round[r] = uint32_t(state >> 32);
  }
  return key;
}

AWPF_HOST_DEVICE inline uint32_t shuffle_mix(uint32_t value, uint32_t key) {
  uint32_t x = (value + key) * 0x9e3779b1u;
  x ^= x >> 15;
  x *= 0x85ebca77u;
  return x ^ (x >> 16);
}

// One pass of the network, a bijection of the whole power of two.
AWPF_HOST_DEVICE inline uint32_t shuffle_once(uint32_t value, const ShuffleKey& key) {
  const uint32_t left_mask = (1u << key.left_bits) - 1, right_mask = (1u << key.right_bits) - 1;
  uint32_t left = value >> key.right_bits, right = value & right_mask;
  for (int r = 0; r < ShuffleKey::kRounds; r += 2) {
    left ^= shuffle_mix(right, key.round[r]) & left_mask;
    right ^= shuffle_mix(left, key.round[r + 1]) & right_mask;
  }
  return left << key.right_bits | right;
}

AWPF_HOST_DEVICE inline uint32_t shuffled(uint32_t value, uint32_t n, const ShuffleKey& key) {
  do value = shuffle_once(value, key);
  while (value >= n);
  return value;
}

}  // namespace awpf
