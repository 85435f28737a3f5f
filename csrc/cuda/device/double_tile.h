// A 64 x 64 tile of A B' in double precision by m8n8k4 products, which run on tensor cores where a GPU has them for
// doubles.
#pragma once

#include "cuda/device/simt.h"

namespace awpf {

constexpr int kDoubleTile = 64;  // rows and columns
constexpr int kDoubleSlab = 16;  // depth of a slab
constexpr int kDoubleThreads = 256;

struct DoubleSlab {
  static constexpr int kStride = kDoubleTile + 4;  // no bank conflicts: four depths of four rows lie in different banks
  static constexpr int kSize = kDoubleSlab * kStride;
  double* data;

  // Stores value(row, depth). Neighbouring threads ask for neighbouring depths if kAlongDepth, otherwise for
  // neighbouring rows.
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

// 2 x 4 warps compute 32 x 16 values each, as eight squares of 8 x 8; of each square a thread holds two neighbours of a
// row.
struct DoubleTile {
  double sum[4][2][2];

  __device__ __forceinline__ static int row(int i) {
    return int(threadIdx.x) / (4 * kWarp) * 32 + i * 8 + int(threadIdx.x) % kWarp / 4;
  }
  __device__ __forceinline__ static int first_column(int j) { return int(threadIdx.x) / kWarp % 4 * 16 + j * 8; }

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int j = 0; j < 2; ++j) sum[i][j][0] = sum[i][j][1] = 0;
  }

  __device__ __forceinline__ void add(const DoubleSlab& a, const DoubleSlab& b) {
    const int lane = threadIdx.x % kWarp;
    const double* left = a.data + lane % 4 * DoubleSlab::kStride + row(0);
    const double* right = b.data + lane % 4 * DoubleSlab::kStride + first_column(0) + lane / 4;
#pragma unroll
    for (int depth = 0; depth < kDoubleSlab; depth += 4) {
      double rows[4], columns[2];
#pragma unroll
      for (int i = 0; i < 4; ++i) rows[i] = left[depth * DoubleSlab::kStride + i * 8];
#pragma unroll
      for (int j = 0; j < 2; ++j) columns[j] = right[depth * DoubleSlab::kStride + j * 8];
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 2; ++j) mma_f64(sum[i][j], rows[i], columns[j]);
    }
  }

  // Calls f(row, column, value).
  template <class F>
  __device__ __forceinline__ void for_each(F f) const {
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int j = 0; j < 2; ++j)
#pragma unroll
        for (int e = 0; e < 2; ++e) f(row(i), first_column(j) + int(threadIdx.x) % 4 * 2 + e, sum[i][j][e]);
  }
};

}  // namespace awpf
