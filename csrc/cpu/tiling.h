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

  // Each block but the last is a multiple of `step`, that of the kernel table.
  DepthBlocks(int64_t depth, int64_t step) : depth(depth) {
    constexpr int64_t kDeepest = 320;
    const int64_t blocks = std::max<int64_t>(1, ceil_div(depth, kDeepest));
    block = round_up(std::max<int64_t>(1, ceil_div(depth, blocks)), step);
  }

  int64_t end(int64_t begin) const { return std::min(begin + block, depth); }
};

template <class T>
DepthBlocks depth_blocks(int64_t depth) {
  return {depth, kernels<T>().depth_step};
}

// A depth of at least 1 that is not cut.
inline DepthBlocks one_block(int64_t depth) { return {depth, depth}; }

template <class T>
int64_t tile_size(Operand operand) {
  return operand == Operand::a ? kernels<T>().tile_rows : kernels<T>().tile_columns;
}

// Where the strips of a packed operand are: those of the first block of the depth, then those of the second, and so on.
template <class T>
class StripLayout {
 public:
  StripLayout() = default;
  StripLayout(Operand operand, int64_t rows, const DepthBlocks& depth)
      : operand_(operand), strips_(ceil_div(rows, tile_size<T>(operand))), depth_(depth) {}

  // The strip that begins with row `row`, in the block of the depth that begins at `k`.
  int64_t at(int64_t row, int64_t k) const {
    const auto strip_size = kernels<T>().strip_size;
    return k / depth_.block * strips_ * strip_size(operand_, depth_.block) +
           row / tile_size<T>(operand_) * strip_size(operand_, depth_.end(k) - k);
  }
  // How many T all of them take.
  int64_t size() const {
    if (depth_.depth == 0) return 0;
    return at(strips_ * tile_size<T>(operand_), (depth_.depth - 1) / depth_.block * depth_.block);
  }
  // Packs the rows [first, first + rows), which begin at `from`; `to` is the beginning of the operand.
  void pack_rows(T* to, int64_t first, const T* from, int64_t row_stride, int64_t rows) const {
    const auto pack = operand_ == Operand::a ? kernels<T>().pack_rows_a : kernels<T>().pack_rows_b;
    for (int64_t k = 0; k < depth_.depth; k += depth_.block)
      pack(to + at(first, k), from + k, row_stride, rows, depth_.end(k) - k);
  }

 private:
  Operand operand_ = Operand::a;
  int64_t strips_ = 0;
  DepthBlocks depth_{0, 1};
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

// The least number of rows that are whole strips of either operand.
template <class T>
int64_t common_strips() {
  int64_t rows = kernels<T>().tile_rows;
  while (rows % kernels<T>().tile_columns != 0) rows += kernels<T>().tile_rows;
  return rows;
}

// Points are packed in chunks of this many rows: whole strips of both operands.
template <class T>
int64_t packing_chunk() {
  return round_up(96, common_strips<T>());
}

}  // namespace awpf
