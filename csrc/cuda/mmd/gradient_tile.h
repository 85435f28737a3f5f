// The second product of a gradient: the weights of the pairs of a tile times the points of its columns, for 64 rows and
// one chunk of the features. The weights never leave the multiprocessor.
#pragma once

#include "cuda/mmd/gram.h"

namespace awpf {

// Weights and points are split in two fp16 halves and multiplied in three products. Each slab is accumulated on its own
// and added with rounding.
struct SplitGradient {
  using Gram = SplitGram;
  static constexpr int kFeatures = 256;  // of a chunk; a warp computes 64
  static constexpr int kSlab = 16;       // columns of the tile multiplied at a time: the depth
  static constexpr int kStages = 3;
  static constexpr int kWeightStride = kTileColumns + 8;
  static constexpr int kWeightSize = kStripRows * kWeightStride;  // of the high or the low halves
  static constexpr int kPointStride = kFeatures + 8;
  static constexpr int kPointSize = kSlab * kPointStride;
  static constexpr size_t kSharedBytes = (2 * kWeightSize + kStages * 2 * kPointSize) * sizeof(uint16_t);
  static_assert(kSharedBytes <= Gram::kSharedBytes, "it reuses the shared memory of the first product");

  float sum[2][8][4];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int j = 0; j < 8; ++j)
#pragma unroll
        for (int k = 0; k < 4; ++k) sum[i][j][k] = 0;
  }

  // Stores the weights of two neighbouring pairs for `add`, and returns the sum of the stored, rounded weights.
  __device__ __forceinline__ static float store(void* shared, int row, int column, float first, float second) {
    const Split a = split(first), b = split(second);
    uint16_t* const to = static_cast<uint16_t*>(shared) + row * kWeightStride + column;
    *reinterpret_cast<uint32_t*>(to) = a.hi | uint32_t(b.hi) << 16;
    *reinterpret_cast<uint32_t*>(to + kWeightSize) = a.lo | uint32_t(b.lo) << 16;
    return (half_value(a.hi) + half_value(a.lo)) + (half_value(b.hi) + half_value(b.lo));
  }

  // For all threads; ends with a barrier.
  __device__ __forceinline__ void add(const Plan& plan, int64_t, Precision precision,
                                      const TilePoints<float>& tile_points, int first_feature, void* shared) {
    const uint16_t* const high = static_cast<uint16_t*>(shared);
    uint16_t* const points = static_cast<uint16_t*>(shared) + 2 * kWeightSize;
    const bool split_points = precision == Precision::fp16_split;
    const int lane = threadIdx.x % kWarp;
    const auto load = [&](int slab) {
      if (slab < kTileColumns / kSlab) {
        uint16_t* const stage = points + slab % kStages * 2 * kPointSize;
        constexpr int kChunks = kFeatures / 8;
#pragma unroll
        for (int k = 0; k < kSlab * kChunks / kGramThreads; ++k) {
          const int line = threadIdx.x / kChunks + k * (kGramThreads / kChunks), chunk = threadIdx.x % kChunks * 8;
          const int64_t row = tile_points.row[kStripRows + slab * kSlab + line];
          const bool valid = row >= 0 && first_feature + chunk < plan.pitch;
          const int64_t at = valid ? row * plan.pitch + first_feature + chunk : 0;
          cp_async_16(stage + line * kPointStride + chunk, plan.hi + at, valid);
          if (split_points) cp_async_16(stage + kPointSize + line * kPointStride + chunk, plan.lo + at, valid);
        }
      }
      cp_async_commit();
    };
#pragma unroll
    for (int s = 0; s < kStages - 1; ++s) load(s);
    const int warp = threadIdx.x / kWarp, row = warp / 4 * 32, feature = warp % 4 * (kFeatures / 4);
    const int features = plan.pitch - first_feature - feature;  // that are left for this warp
#pragma unroll 1
    for (int slab = 0; slab < kTileColumns / kSlab; ++slab) {
      cp_async_wait<kStages - 2>();
      __syncthreads();
      load(slab + kStages - 1);
      const uint16_t* const stage = points + slab % kStages * 2 * kPointSize;
      uint32_t a_high[2][4], a_low[2][4];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const uint16_t* const from = high + (row + i * 16 + lane % 16) * kWeightStride + slab * kSlab + lane / 16 * 8;
        ldmatrix_x4(a_high[i], from);
        ldmatrix_x4(a_low[i], from + kWeightSize);
      }
#pragma unroll
      for (int j = 0; j < 8; j += 2) {
        if (j * 8 >= features) continue;
        const uint16_t* const from = stage + lane % 16 * kPointStride + feature + j * 8 + lane / 16 * 8;
        uint32_t b[4];
        ldmatrix_x4_trans(b, from);
        float part[2][2][4] = {};
#pragma unroll
        for (int i = 0; i < 2; ++i)
#pragma unroll
          for (int n = 0; n < 2; ++n) mma_f16(part[i][n], a_low[i], b[2 * n], b[2 * n + 1]);
        if (split_points) {
          uint32_t b_low[4];
          ldmatrix_x4_trans(b_low, from + kPointSize);
#pragma unroll
          for (int i = 0; i < 2; ++i)
#pragma unroll
            for (int n = 0; n < 2; ++n) mma_f16(part[i][n], a_high[i], b_low[2 * n], b_low[2 * n + 1]);
        }
#pragma unroll
        for (int i = 0; i < 2; ++i)
#pragma unroll
          for (int n = 0; n < 2; ++n) {
            mma_f16(part[i][n], a_high[i], b[2 * n], b[2 * n + 1]);
#pragma unroll
            for (int k = 0; k < 4; ++k) sum[i][j + n][k] += part[i][n][k];
          }
      }
    }
    cp_async_wait<0>();
    __syncthreads();
  }

  // Calls f(row of the strip, feature of the chunk, value).
  template <class F>
  __device__ __forceinline__ void for_each(const F& f) const {
    const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int j = 0; j < 8; ++j)
#pragma unroll
        for (int k = 0; k < 4; ++k)
          f(warp / 4 * 32 + i * 16 + k / 2 * 8 + lane / 4, warp % 4 * (kFeatures / 4) + j * 8 + lane % 4 * 2 + k % 2,
            double(sum[i][j][k]));
  }

  // A value as the products read it: centred, scaled and rounded.
  __device__ __forceinline__ static double point(const Plan& plan, int64_t, Precision precision, int64_t row,
                                                 int feature) {
    const int64_t at = row * plan.pitch + feature;
    return double(half_value(plan.hi[at])) +
           (precision == Precision::fp16_split ? double(half_value(plan.lo[at])) : 0.0);
  }
};

struct DoubleGradient {
  using Gram = DoubleGram;
  static constexpr int kFeatures = kTileColumns;
  static constexpr int kSlab = 16;
  static constexpr int kWeightStride = kTileColumns + 4;
  static constexpr int kPointStride = kFeatures + 4;
  static constexpr int kWeightSize = kStripRows * kWeightStride;
  static constexpr size_t kSharedBytes = (kWeightSize + kSlab * kPointStride) * sizeof(double);

  Fragment<double> sum;

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) sum[i][j][0] = sum[i][j][1] = 0;
  }

  __device__ __forceinline__ static double store(void* shared, int row, int column, double first, double second) {
    double* const to = static_cast<double*>(shared) + row * kWeightStride + column;
    to[0] = first;
    to[1] = second;
    return first + second;
  }

  __device__ __forceinline__ void add(const Plan& plan, int64_t problem, Precision precision,
                                      const TilePoints<double>& tile_points, int first_feature, void* shared) {
    double* const points = static_cast<double*>(shared) + kWeightSize;
    const int lane = threadIdx.x % kWarp;
    const double* const left = static_cast<double*>(shared) + fragment_row(0) * kWeightStride + lane % 4;
    const double* const right = points + lane % 4 * kPointStride + threadIdx.x / kWarp % 4 * 32 + lane / 4;
#pragma unroll 1
    for (int slab = 0; slab < kTileColumns; slab += kSlab) {
      __syncthreads();
#pragma unroll 2
      for (int k = threadIdx.x; k < kSlab * kFeatures; k += kGramThreads) {
        const int line = k / kFeatures, feature = first_feature + k % kFeatures;
        const int64_t row = tile_points.row[kStripRows + slab + line];
        points[line * kPointStride + k % kFeatures] =
            row >= 0 && feature < plan.dim ? point(plan, problem, precision, row, feature) : 0;
      }
      __syncthreads();
#pragma unroll
      for (int step = 0; step < kSlab; step += 4) {
        double a[4], b[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          a[i] = left[i * 8 * kWeightStride + slab + step];
          b[i] = right[step * kPointStride + i * 8];
        }
#pragma unroll
        for (int i = 0; i < 4; ++i)
#pragma unroll
          for (int j = 0; j < 4; ++j) mma_f64(sum[i][j], a[i], b[j]);
      }
    }
    __syncthreads();
  }

  // The same by differences of the rows as they were given, which takes the place of what follows from the sums of the
  // weights, too. For tiles with pairs whose distances were lost: their pull is lost in the product as well.
  __device__ __forceinline__ void add_differences(const Plan& plan, const TilePoints<double>& tile_points,
                                                  int first_feature, const void* shared) {
    const double* const weights = static_cast<const double*>(shared);
    __syncthreads();
#pragma unroll 1
    for (int column = 0; column < kTileColumns; ++column) {
      const int64_t from = tile_points.row[kStripRows + column] * plan.dim;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const double weight = weights[fragment_row(i) * kWeightStride + column];
        const int64_t to = tile_points.row[fragment_row(i)] * plan.dim;
        if (weight == 0) continue;
#pragma unroll
        for (int k = 0; k < 8; ++k) {
          const int feature = first_feature + fragment_column(k / 2, k % 2);
          if (feature < plan.dim)
            sum[i][k / 2][k % 2] += weight * (load_double(plan.z, plan.type, from + feature) -
                                              load_double(plan.z, plan.type, to + feature));
        }
      }
    }
    __syncthreads();
  }

  template <class F>
  __device__ __forceinline__ void for_each(const F& f) const {
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j)
#pragma unroll
        for (int e = 0; e < 2; ++e) f(fragment_row(i), fragment_column(j, e), sum[i][j][e]);
  }

  __device__ __forceinline__ static double point(const Plan& plan, int64_t problem, Precision, int64_t row,
                                                 int feature) {
    return load_double(plan.z, plan.type, row * plan.dim + feature) - plan.centre[problem * plan.dim + feature];
  }
};

}  // namespace awpf
