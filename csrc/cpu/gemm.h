// The one matrix product under every CPU kernel: C (rows x columns) = or += A (rows x depth) . B (columns x depth)^T.
//
// FLOPs: 2 rows columns depth. Both operands are packed beforehand into strips (kRows rows of A, kColumns rows of B,
// the depth index outermost), so that the inner loop reads two sequential streams and keeps a kRows x kColumns tile of
// C in registers: 28 FMAs for 2 vector loads and 14 broadcasts with AVX-512. Each element of C is one chain of FMAs
// over a block of the depth, in order, whatever tile or thread it falls into: results never depend on the schedule.
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

template <class T>
using Quad __attribute__((vector_size(4 * sizeof(T)), aligned(sizeof(T)), may_alias)) = T;

// to[k * to_stride + r] = from[r * from_stride + k] for a square of four.
template <class T>
inline void transpose_quad(T* to, int64_t to_stride, const T* from, int64_t from_stride) {
  const Quad<T> a = *reinterpret_cast<const Quad<T>*>(from);
  const Quad<T> b = *reinterpret_cast<const Quad<T>*>(from + from_stride);
  const Quad<T> c = *reinterpret_cast<const Quad<T>*>(from + 2 * from_stride);
  const Quad<T> d = *reinterpret_cast<const Quad<T>*>(from + 3 * from_stride);
  const Quad<T> ab_low = __builtin_shufflevector(a, b, 0, 4, 1, 5), ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
  const Quad<T> cd_low = __builtin_shufflevector(c, d, 0, 4, 1, 5), cd_high = __builtin_shufflevector(c, d, 2, 6, 3, 7);
  *reinterpret_cast<Quad<T>*>(to) = __builtin_shufflevector(ab_low, cd_low, 0, 1, 4, 5);
  *reinterpret_cast<Quad<T>*>(to + to_stride) = __builtin_shufflevector(ab_low, cd_low, 2, 3, 6, 7);
  *reinterpret_cast<Quad<T>*>(to + 2 * to_stride) = __builtin_shufflevector(ab_high, cd_high, 0, 1, 4, 5);
  *reinterpret_cast<Quad<T>*>(to + 3 * to_stride) = __builtin_shufflevector(ab_high, cd_high, 2, 3, 6, 7);
}

// Packing goes through the source a cache line of every row at a time.
constexpr int64_t kLine = 16;

// Strips from a source whose depth index is contiguous (rows of points). Missing rows become zero.
template <int kStrip, class T>
void pack_rows(T* __restrict to, const T* __restrict from, int64_t row_stride, int64_t rows, int64_t depth) {
  for (int64_t first = 0; first < rows; first += kStrip, to += kStrip * depth) {
    const int64_t valid = rows - first < kStrip ? rows - first : kStrip;
    const T* source = from + first * row_stride;
    if (valid < kStrip)
      for (int64_t i = 0; i < kStrip * depth; ++i) to[i] = 0;
    const int64_t quads = valid / 4 * 4, whole = depth / kLine * kLine;
    for (int64_t p = 0; p < whole; p += kLine) {
      for (int64_t r = 0; r < quads; r += 4)
        for (int64_t k = p; k < p + kLine; k += 4)
          transpose_quad(to + k * kStrip + r, kStrip, source + r * row_stride + k, row_stride);
      for (int64_t r = quads; r < valid; ++r)
        for (int64_t k = p; k < p + kLine; ++k) to[k * kStrip + r] = source[r * row_stride + k];
    }
    for (int64_t p = whole; p < depth; ++p)
      for (int64_t r = 0; r < valid; ++r) to[p * kStrip + r] = source[r * row_stride + p];
  }
}

// Strips from a source whose row index is contiguous (features of a sample, for products over samples).
template <int kStrip, class T>
void pack_columns(T* __restrict to, const T* __restrict from, int64_t depth_stride, int64_t rows, int64_t depth) {
  constexpr int64_t kSamples = 8;
  for (int64_t block = 0; block < depth; block += kSamples) {
    const int64_t end = block + kSamples < depth ? block + kSamples : depth;
    for (int64_t first = 0; first < rows; first += kStrip) {
      const int64_t valid = rows - first < kStrip ? rows - first : kStrip;
      for (int64_t p = block; p < end; ++p) {
        const T* source = from + p * depth_stride + first;
        T* out = to + first * depth + p * kStrip;
        if (valid == kStrip) {
#pragma GCC unroll 32
          for (int r = 0; r < kStrip; ++r) out[r] = source[r];
        } else {
          for (int r = 0; r < kStrip; ++r) out[r] = r < valid ? source[r] : T(0);
        }
      }
    }
  }
}

}  // namespace
