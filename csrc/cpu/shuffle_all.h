// The shuffle of many values at once.
#pragma once

#include <vector>

#include "cpu/kernel_table.h"

namespace awpf {

// Calls f(k, where the shuffle of [0, n) puts values[k]) for every k, in any order.
template <class F>
void for_each_shuffled(std::vector<uint32_t> values, int64_t n, const ShuffleKey& key, const F& f) {
  std::vector<uint32_t> index(values.size());
  for (std::size_t k = 0; k < index.size(); ++k) index[k] = uint32_t(k);
  // Values outside the range go through the shuffle again, all of them in one vectorised pass.
  int64_t pending = int64_t(values.size());
  while (pending > 0) {
    kernel_table().shuffle_once(values.data(), pending, key);
    int64_t left = 0;
    for (int64_t k = 0; k < pending; ++k) {
      if (values[k] < uint64_t(n)) {
        f(int64_t(index[k]), values[k]);
      } else {
        values[left] = values[k];
        index[left++] = index[k];
      }
    }
    pending = left;
  }
}

}  // namespace awpf
