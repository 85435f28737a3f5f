// The precision that a problem is computed in, and how its points are scaled for it.
#pragma once

#include <math.h>

#include "common/lost_distances.h"
#include "common/precision.h"

namespace awpf {

enum class Precision : int32_t {
  fp16 = 1,        // one product of fp16 values: 16-bit input near the origin as it is, or float32 where that was asked
  fp16_split = 2,  // centred, every value the sum of two fp16 halves, three products
  fp64 = 3,
  invalid = 4,  // NaN or infinity among the points, squares that overflow, or a bandwidth that is not positive: all NaN
};

struct Scaling {
  double mean_square;  // mean squared distance of the points from the centre
  double scale;        // packed values are multiplied with it: a power of two
  double unit;         // the widest kernel is 2^(unit (z_i . z_j - |z_i|^2 / 2 - |z_j|^2 / 2)) of packed values
  double weight;       // 2 mean_s gamma_s: the weights of the steps are relative to it
  double narrowest;    // the rate of the narrowest kernel
  LostDistances lost;  // in double precision
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

}  // namespace awpf
