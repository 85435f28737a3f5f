// Decides how a problem is computed: in one product of fp16 values, in three of split ones, or in double precision.
#pragma once

#include "cuda/mmd/precision_sample.h"

namespace awpf {

// Sorts the kernels of a problem, the widest first, and fills what of its scaling follows from them alone: weight, unit
// (of points that are not scaled), and whether the bandwidths are valid. One thread.
__device__ __forceinline__ void order_kernels(const double* gamma, int kernels, KernelStep* steps, Scaling& scaling) {
  const double sum = sort_exponents(gamma, kernels, steps), widest = steps[0].rate;
  const bool valid = fill_kernel_steps(steps, kernels, sum);
  scaling.weight = 2.0 * sum / kernels;
  scaling.precision = valid ? Precision::fp64 : Precision::invalid;
  scaling.unit = 2.0 * widest / 0.69314718055994530942;
  scaling.narrowest = steps[kernels - 1].rate;
}

// Above this, sums of squared norms in units of the bandwidth may overflow.
constexpr double kLargestSquare = 1e300;

// Completes the scaling that order_kernels began. `from_origin` and `from_centre` are the mean squared distances of the
// points from the origin and from the centre. All threads of a block; all get the same.
__device__ __forceinline__ void choose_precision(const Plan& plan, int64_t p, double from_origin, double from_centre,
                                                 Scaling& scaling, PrecisionSample& sample) {
  const int64_t rows = plan.pooled(p);
  const bool narrow_input = plan.type == ScalarType::Half || plan.type == ScalarType::BFloat16;
  scaling.mean_square = from_centre;
  scaling.centred = true;
  if (scaling.precision != Precision::invalid) {
    // Of the origin, too, since fmax, by which from_centre was found, returns the other operand of a NaN.
    if (!(from_origin * rows * scaling.unit <= kLargestSquare && from_centre * rows * scaling.unit <= kLargestSquare)) {
      scaling.precision = Precision::invalid;
    } else if (plan.allow_fp16 && plan.type == ScalarType::Float) {
      scaling.precision = Precision::fp16;
    } else if (plan.type != ScalarType::Double) {
      // Where the origin is nearly as good a centre, 16-bit input is multiplied as it is: products are exact then.
      bool as_it_is = narrow_input && plan.given_centre == nullptr && from_origin <= 8 * from_centre;
      const double* const centre = plan.centre + p * plan.dim;
      while (true) {
        scaling.mean_square = as_it_is ? from_origin : from_centre;
        const SumPrecision needed =
            sampled_precision(plan, p, as_it_is ? nullptr : centre, scaling.mean_square, sample);
        if (needed == SumPrecision::fp32) scaling.precision = as_it_is ? Precision::fp16 : Precision::fp16_split;
        if (needed == SumPrecision::fp32 || !as_it_is) break;
        as_it_is = false;
      }
      scaling.centred = !as_it_is;
    }
  }
  const bool packed = scaling.precision == Precision::fp16 || scaling.precision == Precision::fp16_split;
  scaling.scale = packed ? packing_scale(scaling.mean_square, rows) : 1.0;
  scaling.unit = scaling.unit / (scaling.scale * scaling.scale);
  scaling.lost = LostDistances::of(plan.dim, sqrt(double(plan.dim)), scaling.narrowest);
}

}  // namespace awpf
