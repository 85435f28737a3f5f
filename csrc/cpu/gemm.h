// The one matrix product under every CPU kernel: C (rows x columns) = or += A (rows x depth) . B (columns x depth)^T.
//
// FLOPs: 2 rows columns depth. Both operands are packed beforehand into strips (kRows rows of A, kColumns rows of B,
// the depth index outermost), so that the inner loop reads two sequential streams and keeps a kRows x kColumns tile of
// C in registers: with AVX-512 28 FMAs for 2 vector loads and 14 broadcasts. Each element of C is one chain of FMAs
// over a block of the depth, in order, whatever tile or thread it belongs to. Results never depend on the schedule.
#pragma once

#include "cpu/vec.h"

namespace {

#if AWPF_VECTOR_BYTES == 64
constexpr int kRows = 14;  // 28 of 32 registers are accumulators
#elif AWPF_VECTOR_BYTES == 32
constexpr int kRows = 6;  // 12 of 16
#else
constexpr int kRows = 4;
#endif
constexpr int kVectors = 2;
template <class T>
constexpr int kColumns = kVectors * kLanes<T>;

template <class T>
int64_t strip_size(Operand operand, int64_t depth) {
  return (operand == Operand::a ? kRows : kColumns<T>)*depth;
}

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

// `diagonal`: (first row) - (first column) of this block of a symmetric product whose strict lower triangle is wanted.
// Tiles without an element below the diagonal are not written. A full product passes kNoDiagonal.
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

// Selects lanes of a (numbered 0 to 3) and b (4 to 7). GCC before 12 lacks __builtin_shufflevector, Clang lacks
// __builtin_shuffle.
template <int kFirst, int kSecond, int kThird, int kFourth, class T>
inline void choose_lanes(Quad<T>& out, const Quad<T>& a, const Quad<T>& b) {
#if defined(__clang__)
  out = __builtin_shufflevector(a, b, kFirst, kSecond, kThird, kFourth);
#else
  out = __builtin_shuffle(a, b, Quad<typename VecTypes<T>::Int>{kFirst, kSecond, kThird, kFourth});
#endif
}

// Transposes a 4 x 4 square: to[k * to_stride + r] = from[r * from_stride + k].
template <class T>
inline void transpose_quad(T* to, int64_t to_stride, const T* from, int64_t from_stride) {
  Quad<T> in[4], pair[4], out[4];
  for (int r = 0; r < 4; ++r) in[r] = *reinterpret_cast<const Quad<T>*>(from + r * from_stride);
  choose_lanes<0, 4, 1, 5, T>(pair[0], in[0], in[1]);
  choose_lanes<2, 6, 3, 7, T>(pair[1], in[0], in[1]);
  choose_lanes<0, 4, 1, 5, T>(pair[2], in[2], in[3]);
  choose_lanes<2, 6, 3, 7, T>(pair[3], in[2], in[3]);
  choose_lanes<0, 1, 4, 5, T>(out[0], pair[0], pair[2]);
  choose_lanes<2, 3, 6, 7, T>(out[1], pair[0], pair[2]);
  choose_lanes<0, 1, 4, 5, T>(out[2], pair[1], pair[3]);
  choose_lanes<2, 3, 6, 7, T>(out[3], pair[1], pair[3]);
  for (int k = 0; k < 4; ++k) *reinterpret_cast<Quad<T>*>(to + k * to_stride) = out[k];
}

// Packing reads one cache line of every row at a time.
constexpr int64_t kLine = 16;

// Packs strips from a source whose depth index is contiguous (rows of points). Missing rows become zero.
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

// Packs strips from a source whose row index is contiguous (features of a point, for products over points).
template <int kStrip, class T>
void pack_columns(T* __restrict to, const T* __restrict from, int64_t depth_stride, int64_t rows, int64_t depth) {
  constexpr int64_t kDepthAtOnce = 8;
  for (int64_t block = 0; block < depth; block += kDepthAtOnce) {
    const int64_t end = block + kDepthAtOnce < depth ? block + kDepthAtOnce : depth;
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
