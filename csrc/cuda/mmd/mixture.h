// Evaluates a mixture of Gaussian kernels from inner products, and sums values without losing bits.
#pragma once

#include "cuda/mmd/gram.h"

namespace awpf {

// 2^x for x <= 0 with an error below one ulp. The hardware's exp2 is off by up to four, which would show with wide
// kernels on a few hundred rows. The algorithm is that of the CPU (common/kernel_mixture.h).
__device__ __forceinline__ float exp2_within_ulp(float x) {
  x = fmaxf(x, Exp2Float::kLowest);
  const float rounded = x + Exp2Float::kRound, f = x - (rounded - Exp2Float::kRound);
  float p = Exp2Float::kC6;
  p = fmaf(p, f, Exp2Float::kC5);
  p = fmaf(p, f, Exp2Float::kC4);
  p = fmaf(p, f, Exp2Float::kC3);
  p = fmaf(p, f, Exp2Float::kC2);
  p = fmaf(p, f, Exp2Float::kC1);
  p = fmaf(p, f, 1.0f);
  return __uint_as_float(__float_as_uint(p) + (__float_as_uint(rounded) << 23));
}
__device__ __forceinline__ double exp2_within_ulp(double x) { return exp2(x); }

// The exponent of 2 of the widest kernel, in proportion to -|z_i - z_j|^2 and never above zero.
template <class T>
__device__ __forceinline__ T exponent(T product, T row_norm, T row_rest, T column_norm, T column_rest, T unit) {
  const T half = ((product - row_norm) - column_norm) - (row_rest + column_rest);
  return half < T(0) ? half * unit : T(0);
}

// In double precision the exponent has taken the place of the product (DoubleGram).
__device__ __forceinline__ double exponent(double found, double, double, double, double, double) { return found; }

// Stores the sum of all kernels at exponent[k] in sum[k] and, if kWeighted, their sum by weight in weighted[k].
template <class T, int kCount, bool kWeighted>
__device__ __forceinline__ void sum_kernels(const KernelStep* __restrict__ steps, int kernels,
                                            const T (&exponent)[kCount], T (&sum)[kCount], T (&weighted)[kCount]) {
  T kernel[kCount];
  const T first_weight = T(steps[0].weight);
#pragma unroll
  for (int k = 0; k < kCount; ++k) {
    kernel[k] = exp2_within_ulp(exponent[k]);
    sum[k] = kernel[k];
    if (kWeighted) weighted[k] = kernel[k] * first_weight;
  }
  for (int s = 1; s < kernels; ++s) {
    const int squarings = steps[s].squarings;
    if (squarings == 0) {
      const T rate = T(steps[s].rate);
#pragma unroll
      for (int k = 0; k < kCount; ++k) kernel[k] = exp2_within_ulp(exponent[k] * rate);
    }
    for (int q = 0; q < squarings; ++q)
#pragma unroll
      for (int k = 0; k < kCount; ++k) kernel[k] *= kernel[k];
    const T weight = T(steps[s].weight);
#pragma unroll
    for (int k = 0; k < kCount; ++k) {
      sum[k] += kernel[k];
      if (kWeighted) weighted[k] += kernel[k] * weight;
    }
  }
}

// The same for kCount neighbouring values of row i of a fragment of inner products, starting with `first`.
template <bool kWeighted, class ThreadGroup = ThreadBlock, class T, int kCount>
__device__ __forceinline__ void kernel_sums(const Plan& plan, const KernelStep* __restrict__ steps, T unit,
                                            const TilePoints<T>& tile_points, const Fragment<T, ThreadGroup>& product,
                                            int i, int first, T (&sum)[kCount], T (&weighted)[kCount]) {
  compiler_barrier();
  const int row = ThreadGroup::row(i);
  T exponents[kCount];
#pragma unroll
  for (int k = 0; k < kCount; ++k) {
    const int j = (first + k) / 2, column = kStripRows + ThreadGroup::column(j, k % 2);
    exponents[k] = exponent(product[i][j][k % 2], tile_points.norm[row], tile_points.rest[row],
                            tile_points.norm[column], tile_points.rest[column], unit);
  }
  sum_kernels<T, kCount, kWeighted>(steps, plan.kernels, exponents, sum, weighted);
}

// Adds up values from 0 to `largest`, and the rounding error of every addition, too (Dekker's sum, whose errors are
// exact because the sum starts and stays above every value).
struct CompensatedSum {
  float sum, error, base;

  __device__ __forceinline__ explicit CompensatedSum(float largest) : sum(largest), error(0), base(largest) {}
  __device__ __forceinline__ void add(float value) {
    const float next = sum + value;
    error += value - (next - sum);
    sum = next;
  }
  __device__ __forceinline__ double total() const { return double(sum) - double(base) + double(error); }
};

struct DoubleSum {
  double sum = 0;

  __device__ __forceinline__ explicit DoubleSum(double) {}
  __device__ __forceinline__ void add(double value) { sum += value; }
  __device__ __forceinline__ double total() const { return sum; }
};

template <class T>
struct Accumulator;
template <>
struct Accumulator<float> {
  using Type = CompensatedSum;
};
template <>
struct Accumulator<double> {
  using Type = DoubleSum;
};

}  // namespace awpf
