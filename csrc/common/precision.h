// Decides whether single precision is enough for a sum of Gaussian kernels.
#pragma once

#include <stdint.h>

#if defined(__CUDACC__)
#define AWPF_HOST_DEVICE __host__ __device__
#else
#define AWPF_HOST_DEVICE
#endif

namespace awpf {

// The contract for fp32 inputs is an error of at most 1e-5 MMD^2 + 1e-9 (mean Kxx + mean Kyy). Two errors matter:
// - The rounding of each kernel value, about 2^-24 of it, averages out over many pairs; hence the least number of rows.
// - In tight clusters far apart, the inner products of all pairs are large, nearly equal and rounded alike. This error
//   of about 4 2^-24 gamma |z|^2 cancels between the blocks except for the exact diagonal, which leaves 1 / rows of it.
//
// `sharpness` is the mean gamma times the mean squared distance from the centre, about 0.4 for the usual five kernels
// around the median distance. The constants come from a sweep over such data, with a margin of three.
AWPF_HOST_DEVICE inline bool float_is_enough(double sharpness, int64_t rows) {
  return rows >= 512 && sharpness <= 4.5e-4 * static_cast<double>(rows);
}

}  // namespace awpf
