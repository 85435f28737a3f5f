// How a mixture of Gaussian kernels, mean_s exp(-gamma_s d^2), is evaluated on every device: the steps from one kernel
// to the next, and the coefficients of 2^x. It includes no header with code in it, so that files that are compiled for
// several instruction sets may include it.
#pragma once

#include "common/precision.h"

namespace awpf {

// One kernel of a mixture; the widest comes first. If the widest kernel is 2^e, this one is 2^(rate e), computed anew
// where `squarings` is zero, and else the kernel before it squared `squarings` times.
struct KernelStep {
  double rate;
  double weight;  // gamma_s in the caller's unit: the factor of this kernel in a gradient
  int32_t squarings;
};

// Since the last 2^x. Each squaring doubles the relative error.
constexpr int kMostSquarings = 2;

// Puts the exponents into steps[s].rate in ascending order, so that the widest kernel comes first; returns their sum.
AWPF_HOST_DEVICE inline double sort_exponents(const double* gamma, int count, KernelStep* steps) {
  for (int s = 0; s < count; ++s) {  // insertion sort: there are few kernels
    int to = s;
    for (; to > 0 && steps[to - 1].rate > gamma[s]; --to) steps[to].rate = steps[to - 1].rate;
    steps[to].rate = gamma[s];
  }
  double sum = 0;
  for (int s = 0; s < count; ++s) sum += steps[s].rate;
  return sum;
}

// The number of squarings, at most `most`, that turn a kernel into the one whose exponent is `ratio` times as large;
// zero if none does. Powers of two are recognised up to the rounding of the two exponents.
AWPF_HOST_DEVICE inline int squarings_between(double ratio, int most) {
  for (int squarings = 1; squarings <= most; ++squarings) {
    const double error = ratio / double(1 << squarings) - 1;
    if (-7e-15 < error && error < 7e-15) return squarings;
  }
  return 0;
}

// Turns sorted exponents into steps. Weights are gamma_s / `unit`. Returns false if an exponent is not a positive,
// finite number.
AWPF_HOST_DEVICE inline bool fill_kernel_steps(KernelStep* steps, int count, double unit) {
  const double widest = steps[0].rate;
  double last = widest;
  int squared = 0;
  for (int s = 0; s < count; ++s) {
    const double gamma = steps[s].rate;
    if (!(gamma > 0 && gamma <= 1.7976931348623157e308)) return false;
    const int squarings = squarings_between(gamma / last, kMostSquarings - squared);
    squared = squarings > 0 ? squared + squarings : 0;
    steps[s] = {gamma / widest, gamma / unit, squarings};
    last = gamma;
  }
  return true;
}

// 2^x in single precision, for x <= 0: x is rounded to an integer i, and 2^i is multiplied with 2^f, |f| <= 1/2.
struct Exp2Float {
  // Adding 1.5 * 2^23 rounds to the nearest integer and leaves it in the low bits of the mantissa.
  static constexpr float kRound = 12582912.0f;
  // Smaller exponents are replaced by this one: the result is still normal, and far below anything a sum can see.
  static constexpr float kLowest = -125.0f;
  // 2^f = 1 + kC1 f + ... + kC6 f^6, minimax in the relative error, which is 6e-10 before rounding.
  static constexpr float kC1 = 6.9314721e-1f, kC2 = 2.4022647e-1f, kC3 = 5.5503288e-2f, kC4 = 9.6184890e-3f,
                         kC5 = 1.3399931e-3f, kC6 = 1.5345812e-4f;
};

}  // namespace awpf
