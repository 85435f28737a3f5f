// The one matrix product under every CPU kernel: C (rows x columns) = or += A (rows x depth) . B (columns x depth)^T.
//
// FLOPs: 2 rows columns depth. Both operands are packed beforehand into strips (kRows rows of A, kColumns rows of B, the
// depth index outermost), so that the inner loop reads two sequential streams and keeps a kRows x kColumns tile of C in
// registers: 28 FMAs for 2 vector loads and 14 broadcasts with AVX-512. Each element of C is one chain of FMAs over the
// depth in order, whatever the tile, the block or the thread it falls into: results never depend on the schedule.
#pragma once

#include "vec.h"

namespace {

#if AWPF_VECTOR_BYTES == 64
constexpr int kRows = 14;  // 28 of 32 registers accumulate
#elif AWPF_VECTOR_BYTES == 32
constexpr int kRows = 6;  // 12 of 16
#else
constexpr int kRows = 4;
#endif
constexpr int kVectors = 2;
template <class T>
constexpr int kColumns = kVectors * kLanes<T>;

template <class T>
inline void multiply_tile(const T* __restrict a, const T* __restrict b, T* __restrict c, int64_t c_stride,
                          int64_t depth, bool accumulate) {
  Vec<T> tile[kRows][kVectors];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) tile[r][v] = Vec<T>{};
  for (int64_t p = 0; p < depth; ++p) {
    Vec<T> columns[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) columns[v] = load(b + v * kLanes<T>);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) tile[r][v] += a[r] * columns[v];
    a += kRows;
    b += kColumns<T>;
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      T* out = c + r * c_stride + v * kLanes<T>;
      store(out, accumulate ? load(out) + tile[r][v] : tile[r][v]);
    }
}

// `diagonal`: (first row) - (first column) of this block in a symmetric product whose strict lower triangle is wanted;
// tiles without an element below the diagonal are left untouched. INT64_MAX / 2 for a full product.
template <class T>
void multiply(const T* a, const T* b, T* c, int64_t c_stride, int64_t row_strips, int64_t column_strips, int64_t depth,
              bool accumulate, int64_t diagonal) {
  for (int64_t j = 0; j < column_strips; ++j)
    for (int64_t i = 0; i < row_strips; ++i) {
      if (j * kColumns<T> >= diagonal + (i + 1) * kRows) continue;
      multiply_tile<T>(a + i * kRows * depth, b + j * kColumns<T> * depth, c + i * kRows * c_stride + j * kColumns<T>,
                       c_stride, depth, accumulate);
    }
}

// Strips from a source whose depth index is contiguous (rows of points). Missing rows become zero.
template <int kStrip, class T>
void pack_rows(T* __restrict to, const T* __restrict from, int64_t row_stride, int64_t rows, int64_t depth) {
  for (int64_t first = 0; first < rows; first += kStrip) {
    const int64_t valid = rows - first < kStrip ? rows - first : kStrip;
    const T* source = from + first * row_stride;
    if (valid < kStrip)
      for (int64_t i = 0; i < kStrip * depth; ++i) to[i] = 0;
    for (int64_t r = 0; r < valid; ++r)
      for (int64_t p = 0; p < depth; ++p) to[p * kStrip + r] = source[r * row_stride + p];
    to += kStrip * depth;
  }
}

// Strips from a source whose row index is contiguous (features of a sample, for products over samples).
template <int kStrip, class T>
void pack_columns(T* __restrict to, const T* __restrict from, int64_t depth_stride, int64_t rows, int64_t depth) {
  for (int64_t first = 0; first < rows; first += kStrip) {
    const int64_t valid = rows - first < kStrip ? rows - first : kStrip;
    for (int64_t p = 0; p < depth; ++p) {
      const T* source = from + p * depth_stride + first;
      if (valid == kStrip) {
#pragma GCC unroll 32
        for (int r = 0; r < kStrip; ++r) to[r] = source[r];
      } else {
        for (int r = 0; r < kStrip; ++r) to[r] = r < valid ? source[r] : T(0);
      }
      to += kStrip;
    }
  }
}

}  // namespace
