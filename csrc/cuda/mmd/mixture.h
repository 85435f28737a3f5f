// Evaluates a mixture of Gaussian kernels from inner products, and sums values without losing bits.
#pragma once

#include "cuda/mmd/gram.h"

namespace awpf {

// 2^x for x <= 0 with an error below one ulp. The hardware's exp2 is off by up to four, which would show with wide
// kernels on a few hundred rows. Results below 2^-125 are returned as 2^-125. Minimax on |f| <= 1/2, 6e-10 before
// rounding, as on the CPU.
__device__ __forceinline__ float exp2_within_ulp(float x) {
  constexpr float kRound = 12582912.0f;  // adding it rounds to an integer, which the low bits then hold
  x = fmaxf(x, -125.0f);
  const float rounded = x + kRound, f = x - (rounded - kRound);
  float p = 1.5345812e-4f;
  p = fmaf(p, f, 1.3399931e-3f);
  p = fmaf(p, f, 9.6184890e-3f);
  p = fmaf(p, f, 5.5503288e-2f);
  p = fmaf(p, f, 2.4022647e-1f);
  p = fmaf(p, f, 6.9314721e-1f);
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

// Stores the sum of all kernels at exponent[k] in sum[k] and, if kWeighted, their sum by weight in weighted[k].
template <class T, int kCount, bool kWeighted>
__device__ __forceinline__ void sum_kernels(const Step* __restrict__ steps, int kernels, const T (&exponent)[kCount],
                                            T (&sum)[kCount], T (&weighted)[kCount]) {
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
__device__ __forceinline__ void kernel_sums(const Plan& plan, const Step* __restrict__ steps, T unit,
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
