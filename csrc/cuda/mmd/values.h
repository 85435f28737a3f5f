// One value a problem from its block sums: a constant and a weighted sum.
#pragma once

#include "cuda/device/block.h"
#include "cuda/device/elements.h"

namespace awpf {

struct Values {
  const double *coefficients, *constant;  // (problems, cells), (problems,)
  void* out;                              // (problems,); null where only sums are wanted
  bool wide;
};

// One warp. Its sums are written, by it or before a barrier.
__device__ __forceinline__ void write_value(const Values& values, int64_t p, const double* sums, int64_t cells) {
  double value = 0;
  __syncwarp();
  for (int64_t k = threadIdx.x % kWarp; k < cells; k += kWarp)
    value += values.coefficients[p * cells + k] * sums[p * cells + k];
  value = warp_sum(value);
  if (threadIdx.x % kWarp > 0) return;
  value += values.constant[p];
  if (values.wide)
    static_cast<double*>(values.out)[p] = value;
  else
    static_cast<float*>(values.out)[p] = float(value);
}

}  // namespace awpf
