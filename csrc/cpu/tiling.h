// How a matrix product is cut into blocks that fit the caches.
#pragma once

#include <algorithm>

#include "cpu/buffer.h"
#include "cpu/kernel_table.h"

namespace awpf {

inline int64_t ceil_div(int64_t value, int64_t divisor) { return (value + divisor - 1) / divisor; }
inline int64_t round_up(int64_t value, int64_t multiple) { return ceil_div(value, multiple) * multiple; }

// The depth of a product is cut into equal blocks, so that a strip of one block stays in the first-level cache.
struct DepthBlocks {
  int64_t depth, block;

  explicit DepthBlocks(int64_t depth) : depth(depth) {
    constexpr int64_t kDeepest = 320;
    const int64_t blocks = std::max<int64_t>(1, ceil_div(depth, kDeepest));
    block = std::max<int64_t>(1, ceil_div(depth, blocks));
  }
};

// Rows and columns of a block of results: whole strips for every instruction set, and both operands fit the
// second-level cache. Rows of a block are `block_stride` apart.
template <class T>
int64_t block_rows() {
  return round_up(sizeof(T) == 4 ? 224 : 112, kernels<T>().tile_rows);
}
template <class T>
int64_t block_columns() {
  return sizeof(T) == 4 ? 256 : 128;
}
template <class T>
int64_t block_stride() {
  return block_columns<T>() + kAlignment / int64_t(sizeof(T));
}

// Points are packed in chunks of this many rows: whole strips of both operands.
template <class T>
int64_t packing_chunk() {
  return int64_t(kernels<T>().tile_rows) * kernels<T>().tile_columns;
}

}  // namespace awpf
