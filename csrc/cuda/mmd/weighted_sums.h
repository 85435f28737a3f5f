// One value for each problem: a constant plus a weighted sum of its block sums.
#pragma once

#include "cuda/device/block.h"
#include "cuda/device/elements.h"

namespace awpf {

struct WeightedSums {
  const double *coefficients, *constant;  // (problems, cells), (problems,)
  void* out;                              // (problems,); null if only the sums are wanted
  bool is_double;
};

// For one warp. The sums of the problem have been written, by this warp or before a barrier.
__device__ __forceinline__ void write_weighted_sum(const WeightedSums& weighted, int64_t p, const double* sums,
                                                   int64_t group_pairs) {
  double value = 0;
  __syncwarp();
  for (int64_t k = threadIdx.x % kWarp; k < group_pairs; k += kWarp)
    value += weighted.coefficients[p * group_pairs + k] * sums[p * group_pairs + k];
  value = warp_sum(value);
  if (threadIdx.x % kWarp > 0) return;
  value += weighted.constant[p];
  if (weighted.is_double)
    static_cast<double*>(weighted.out)[p] = value;
  else
    static_cast<float*>(weighted.out)[p] = float(value);
}

}  // namespace awpf
