// Products in single precision on fp16 tensor cores: a 128 x 128 tile of A B'.
//
// Each value is split into the sum of two fp16 numbers, hi + lo, which keep 22 of its bits. A product is
// hi hi' + hi lo' + lo hi'. Values are scaled by a power of two so that the largest lies below 2^15. Values above 2^-18
// of the largest keep all 22 bits; smaller ones have an absolute error of 2^-40 of the largest.
//
// Tensor cores truncate instead of rounding when they accumulate, which would bias long sums by 1e-6. Therefore every
// 16 of the depth are accumulated on their own, small products first, and ordinary, rounded additions add them up.
#pragma once

#include "cuda/device/simt.h"

namespace awpf {

constexpr int kSplitTile = 128;       // rows and columns
constexpr int kSplitSlab = 32;        // depth of a slab
constexpr int kSplitThreads = 512;    // 4 x 4 warps of 32 x 32
constexpr int kLargestExponent = 14;  // scaled values lie below 2^(this + 1)

// The exponent of the power of two that scales values up to `largest` in magnitude; 0 if `largest` is zero or not
// finite.
__device__ __forceinline__ int split_exponent(float largest) {
  const uint32_t bits = __float_as_uint(largest);
  const int biased = int(bits >> 23 & 255);
  if (bits == 0 || biased == 255) return 0;
  const int exponent = kLargestExponent - (biased - 127);  // at least -113
  return exponent < 127 ? exponent : 127;
}

__device__ __forceinline__ float power_of_two(int exponent) {  // -126 to 127
  return __uint_as_float(uint32_t(exponent + 127) << 23);
}

// Returns value 2^exponent for any exponent, without intermediate overflow.
__device__ __forceinline__ float scaled(float value, int exponent) {
  const int first = exponent < -126 ? -126 : exponent > 127 ? 127 : exponent;
  const int rest = exponent - first, second = rest < -126 ? -126 : rest > 127 ? 127 : rest;
  return value * power_of_two(first) * power_of_two(second);
}

struct Split {
  uint16_t hi, lo;
};

__device__ __forceinline__ Split split(float value) {
  const uint16_t hi = half_bits(value);
  return {hi, half_bits(value - half_value(hi))};
}

// A slab of one operand in shared memory, and how its fragments are read. Here the depths of a row are contiguous;
struct RowSlab {
  static constexpr int kStride = kSplitSlab + 8;  // no bank conflicts among the rows of a matrix
  static constexpr int kSize = kSplitTile * kStride;
  const uint16_t* data;

  __device__ __forceinline__ void a(uint32_t (&to)[4], int row, int depth) const {
    const int lane = threadIdx.x % kWarp;
    ldmatrix_x4(to, data + (row + lane % 16) * kStride + depth + lane / 16 * 8);
  }
  // The fragments of 16 columns of B, two of eight.
  __device__ __forceinline__ void b(uint32_t (&to)[4], int row, int depth) const {
    const int lane = threadIdx.x % kWarp;
    ldmatrix_x4(to, data + (row + lane / 16 * 8 + lane % 8) * kStride + depth + lane / 8 % 2 * 8);
  }
};

// here the rows of a depth are.
struct DepthSlab {
  static constexpr int kStride = kSplitTile + 8;
  static constexpr int kSize = kSplitSlab * kStride;
  const uint16_t* data;

  __device__ __forceinline__ void a(uint32_t (&to)[4], int row, int depth) const {
    const int lane = threadIdx.x % kWarp;
    ldmatrix_x4_trans(to, data + (depth + lane / 16 * 8 + lane % 8) * kStride + row + lane / 8 % 2 * 8);
  }
  __device__ __forceinline__ void b(uint32_t (&to)[4], int row, int depth) const {
    const int lane = threadIdx.x % kWarp;
    ldmatrix_x4_trans(to, data + (depth + lane % 16) * kStride + row + lane / 16 * 8);
  }
};

template <class Slab>
struct SplitSlab {
  Slab hi, lo;
};

// The accumulators of a tile that one thread holds.
struct SplitTile {
  float sum[2][4][4];

  __device__ __forceinline__ static int first_row() { return int(threadIdx.x) / kWarp / 4 * 32; }
  __device__ __forceinline__ static int first_column() { return int(threadIdx.x) / kWarp % 4 * 32; }

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j)
#pragma unroll
        for (int k = 0; k < 4; ++k) sum[i][j][k] = 0;
  }

  // Calls f(row, column, value, value of the next column) with rows and columns of the tile.
  template <class F>
  __device__ __forceinline__ void for_pairs(F f) const {
    const int lane = threadIdx.x % kWarp;
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int j = 0; j < 4; ++j)
          f(first_row() + i * 16 + half * 8 + lane / 4, first_column() + j * 8 + lane % 4 * 2, sum[i][j][half * 2],
            sum[i][j][half * 2 + 1]);
  }

  // Adds the product of one slab. kLow says whether B has low halves, too. `meanwhile` is called halfway, so that loads
  // in flight can be stored and new ones issued.
  template <bool kLow, class Slab, class F>
  __device__ __forceinline__ void add(const SplitSlab<Slab>& a, const SplitSlab<Slab>& b, F meanwhile) {
#pragma unroll
    for (int depth = 0; depth < kSplitSlab; depth += 16) {
      uint32_t high[2][4], low[2][4];
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        b.hi.b(high[j], first_column() + j * 16, depth);
        if (kLow) b.lo.b(low[j], first_column() + j * 16, depth);
      }
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float product[4][4] = {};
        uint32_t hi[4], lo[4];
        a.hi.a(hi, first_row() + i * 16, depth);
        a.lo.a(lo, first_row() + i * 16, depth);
        if (kLow) {
#pragma unroll
          for (int j = 0; j < 4; ++j) mma_f16(product[j], hi, low[j / 2][j % 2 * 2], low[j / 2][j % 2 * 2 + 1]);
        }
#pragma unroll
        for (int j = 0; j < 4; ++j) mma_f16(product[j], lo, high[j / 2][j % 2 * 2], high[j / 2][j % 2 * 2 + 1]);
#pragma unroll
        for (int j = 0; j < 4; ++j) mma_f16(product[j], hi, high[j / 2][j % 2 * 2], high[j / 2][j % 2 * 2 + 1]);
#pragma unroll
        for (int j = 0; j < 4; ++j)
#pragma unroll
          for (int k = 0; k < 4; ++k) sum[i][j][k] += product[j][k];
      }
      if (depth == 0) meanwhile();
    }
  }
};

}  // namespace awpf
