// Centred and scaled copies of the pooled points, packed for the matrix product, and blocks of their Gram matrix.
#pragma once

#include "cpu/mmd/centering.h"
#include "cpu/mmd/lost_distances.h"
#include "cpu/tiling.h"

namespace awpf {

template <class T>
struct PackedRows {
  int64_t size = 0;
  StripLayout<T> layout_a, layout_b;
  Buffer<T> a, b;             // the points as first and as second operand of a product
  Buffer<T> norm, norm_rest;  // half the squared norm of each point, and its rounding residual

  OriginalRows original;

  void allocate(const OriginalRows& rows, const DepthBlocks& depth);
  // Centres, scales and packs the positions [begin, end). `begin` is a multiple of packing_chunk().
  void pack(const Centering& centering, int64_t begin, int64_t end, T* scratch);
};

// A block of the Gram matrix: positions [row_begin, row_end) against [column_begin, column_end), both starting with a
// whole strip.
struct Block {
  int64_t row_begin, row_end, column_begin, column_end;
};

// Computes the inner products of a block into `values`, and in double precision the distances that they lose, whose
// pairs it lists. `diagonal` is that of TypedKernels::multiply.
template <class T>
GramBlock<T> gram_block(const PackedRows<T>& rows, const PackedRows<T>& columns, const DepthBlocks& depth,
                        const Block& block, int64_t diagonal, T* values, int64_t stride, std::vector<LostPair>& lost);

}  // namespace awpf
