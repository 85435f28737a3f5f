// The precision that a problem is computed in, and how its points are scaled for it.
#pragma once

#include <math.h>

#include "common/precision.h"

namespace awpf {

enum class Precision : int32_t {
  fp16 = 1,        // one product of fp16 values: 16-bit input near the origin as it is, or float32 where that was asked
  fp16_split = 2,  // centred, every value the sum of two fp16 halves, three products
  fp64 = 3,
  invalid = 4,  // NaN or infinity among the points, or a bandwidth that is not positive: results are NaN
};

struct Scaling {
  double mean_square;  // mean squared distance of the points from the centre
  double scale;        // packed values are multiplied with it: a power of two
  double unit;         // the widest kernel is 2^(unit (z_i . z_j - |z_i|^2 / 2 - |z_j|^2 / 2)) of packed values
  double weight;       // 2 mean_s gamma_s: the weights of the steps are relative to it
  Precision precision;
  bool centred;  // whether packed values are relative to the centre
};

// The power of two that scales the rows of a problem. No centred row is longer than sqrt(rows * mean_square): scaled,
// it stays below 2^15, so that no fp16 value overflows. Values above 2^-17 of that keep 22 bits in their two halves,
// smaller ones have an absolute error of 2^-40 of it.
AWPF_HOST_DEVICE inline double packing_scale(double mean_square, int64_t rows) {
  const double longest = sqrt(mean_square * static_cast<double>(rows));
  return longest > 0 ? ldexp(1.0, 14 - ilogb(longest)) : 1.0;
}

// How exp(-gamma_s d^2) is evaluated for the kernels of a problem, the widest first: from the exponent times `rate`,
// or, where the last kernel squared `squarings` times is this one, from that.
struct Step {
  double rate, weight;  // weight: gamma_s / sum of all gamma, the share of a kernel in a gradient
  int32_t squarings;
};

constexpr int kMostSquarings = 2;  // since the last exp2: each squaring doubles the relative error

// From ascending exponents, whose sum it finds, too; false where one of them is none.
AWPF_HOST_DEVICE inline bool fill_steps(Step* steps, int count, double* sum) {
  int squared = 0;
  *sum = 0;
  for (int s = 0; s < count; ++s) *sum += steps[s].rate;
  const double widest = steps[0].rate;
  double last = widest;
  for (int s = 0; s < count; ++s) {
    const double gamma = steps[s].rate;
    if (!(gamma > 0 && gamma <= 1.7976931348623157e308)) return false;
    const double octaves = log2(gamma / last), whole = rint(octaves);
    steps[s].squarings = 0;
    if (s > 0 && whole >= 1 && squared + whole <= kMostSquarings && fabs(octaves - whole) < 1e-14)
      steps[s].squarings = static_cast<int32_t>(whole);
    squared = steps[s].squarings > 0 ? squared + steps[s].squarings : 0;
    steps[s].rate = gamma / widest;
    steps[s].weight = gamma / *sum;
    last = gamma;
  }
  return true;
}

}  // namespace awpf
