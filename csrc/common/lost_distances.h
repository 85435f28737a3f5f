// Which pairs of rows have a distance that inner products around one centre cannot tell, on every device.
//
// With u the centred rows in the unit in which the widest kernel is 2^(-|u_i - u_j|^2 / 2), and h_i = |u_i|^2 / 2, the
// exponent u_i . u_j - h_i - h_j has a rounding error in proportion to h_i + h_j in double precision. Rows many
// bandwidths from the centre, but close to each other, lose their distance that way: two clusters far apart, or equal
// rows at a tiny bandwidth. Such a pair's distance is computed anew from the difference of the two rows as they were
// given, so that equal rows have distance zero.
#pragma once

#include "common/precision.h"

namespace awpf {

struct LostDistances {
  double usual, worst;  // the error of an exponent as a share of h_i + h_j
  double limit;         // up to this h_i + h_j, the error is small for every kernel

  // The greatest relative error of a kernel value. The contract leaves room for ten times that (precision.h).
  static constexpr double kTolerance = 1e-10;
  // A kernel value of 2^-kLargest is the same as zero.
  static constexpr double kLargest = 1021;
  // Where the exponent is farther from zero than this many usual errors, each kernel is either zero or precise enough.
  static constexpr double kReach = kLargest / kTolerance;

  // Roundings add up like a random walk as a rule, hence the square root of the number of features, and all alike where
  // all features are. `narrowest` is the rate of the narrowest kernel relative to the widest.
  AWPF_HOST_DEVICE static LostDistances of(double features, double root_of_features, double narrowest) {
    constexpr double kRounding = 1.1102230246251565e-16;
    const double usual = (4 + root_of_features) * kRounding;
    return {usual, (16 + features) * kRounding, kTolerance / (usual * narrowest)};
  }
  // Whether a pair with that exponent and that h_i + h_j has lost its distance.
  AWPF_HOST_DEVICE bool concerns(double exponent, double norms) const {
    return norms > limit && exponent > -kLargest - worst * norms && exponent > -kReach * usual * norms;
  }
};

}  // namespace awpf
