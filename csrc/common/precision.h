// When single precision is enough for a sum of Gaussian kernels.
#pragma once

#include <stdint.h>

#if defined(__CUDACC__)
#define AWPF_HOST_DEVICE __host__ __device__
#else
#define AWPF_HOST_DEVICE
#endif

namespace awpf {

// The contract for fp32 inputs is an error of at most 1e-5 MMD^2 + 1e-9 (mean Kxx + mean Kyy). Two errors count:
// - every entry's own rounding, about 2^-24 of it, which averages down with the number of pairs: enough rows;
// - in tight clusters far apart the same rounding of large, nearly equal inner products in every pair, about
//   4 2^-24 gamma |z|^2, which cancels between the blocks but for the exact diagonal: it stays as 1 / rows of itself.
// `sharpness` is the mean gamma times the mean squared distance from the centre, about 0.4 for the usual five kernels
// around the median distance. Constants from a sweep over such data, with a margin of three.
AWPF_HOST_DEVICE inline bool float_is_enough(double sharpness, int64_t rows) {
  return rows >= 512 && sharpness <= 4.5e-4 * static_cast<double>(rows);
}

}  // namespace awpf
