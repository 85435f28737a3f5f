// When single precision is enough for a sum of Gaussian kernels.
#pragma once

#include <stdint.h>

#if defined(__CUDACC__)
#define AWPF_HOST_DEVICE __host__ __device__
#else
#define AWPF_HOST_DEVICE
#endif

namespace awpf {

// The contract for fp32 inputs is an error of at most 1e-5 MMD^2 + 1e-9 (mean Kxx + mean Kyy). An entry computed in fp32
// carries an error of about 2^-24 gamma |z|^2 in its exponent, and the mean over `rows`^2 / 2 entries averages it down.
// `sharpness` is gamma of the narrowest kernel times the mean squared distance from the centre: about 1 for a bandwidth
// near the median distance, large for clusters far apart seen through a narrow kernel, where the Gram trick cancels.
AWPF_HOST_DEVICE inline bool float_is_enough(double sharpness, int64_t rows) {
  return rows >= 256 && sharpness <= 0.02 * static_cast<double>(rows);
}

}  // namespace awpf
