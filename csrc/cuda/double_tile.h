// A 64 x 64 tile of A B' in double precision, by ordinary multiply-adds.
#pragma once

#include "simt.h"

namespace awpf {

constexpr int kDoubleTile = 64;      // rows and columns
constexpr int kDoubleSlab = 16;      // depth of a slab
constexpr int kDoubleThreads = 256;  // 16 x 16, each with every sixteenth row and column

struct DoubleSlab {
  static constexpr int kStride = kDoubleTile + 2;
  static constexpr int kSize = kDoubleSlab * kStride;
  double* data;

  // Fills it with value(row, depth). kAlongDepth: neighbouring threads ask for neighbouring depths, else rows.
  template <bool kAlongDepth, class F>
  __device__ __forceinline__ void fill(F value) const {
    constexpr int kAcross = kAlongDepth ? kDoubleSlab : kDoubleTile;
    const int fast = int(threadIdx.x) % kAcross;
#pragma unroll
    for (int k = 0; k < kDoubleTile * kDoubleSlab / kDoubleThreads; ++k) {
      const int slow = int(threadIdx.x) / kAcross + k * (kDoubleThreads / kAcross);
      const int row = kAlongDepth ? slow : fast, depth = kAlongDepth ? fast : slow;
      data[depth * kStride + row] = value(row, depth);
    }
  }
};

struct DoubleTile {
  double sum[4][4];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) sum[i][j] = 0;
  }

  __device__ __forceinline__ void add(const DoubleSlab& a, const DoubleSlab& b) {
    const double* left = a.data + threadIdx.x / 16;
    const double* right = b.data + threadIdx.x % 16;
#pragma unroll
    for (int depth = 0; depth < kDoubleSlab; ++depth) {
      double row[4], column[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        row[i] = left[depth * DoubleSlab::kStride + i * 16];
        column[i] = right[depth * DoubleSlab::kStride + i * 16];
      }
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) sum[i][j] = fma(row[i], column[j], sum[i][j]);
    }
  }

  // f(row, column, value)
  template <class F>
  __device__ __forceinline__ void for_each(F f) const {
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) f(int(threadIdx.x) / 16 + i * 16, int(threadIdx.x) % 16 + j * 16, sum[i][j]);
  }
};

}  // namespace awpf
