// From the spread of a problem's points to the precision it is computed in, and from points to packed rows.
#pragma once

#include "block.h"
#include "mmd_plan.h"

namespace awpf {

// Completes what order_kernels began. `from_origin` and `centred`: mean squared distance of the points from the origin
// and from the centre. Mode::single means that the points are not centred.
__device__ __forceinline__ void choose_precision(const Plan& plan, int64_t rows, double from_origin, double centred,
                                                 Frame& frame) {
  const bool narrow_input = plan.type == ScalarType::Half || plan.type == ScalarType::BFloat16;
  const double mean_gamma = 0.5 * frame.weight;
  // 16-bit input is multiplied as it is where the origin is nearly as good a centre: products are exact then.
  const bool as_it_is = narrow_input && plan.given_centre == nullptr && from_origin <= 8 * centred &&
                        float_is_enough(mean_gamma * from_origin, rows);
  frame.mean_square = as_it_is ? from_origin : centred;
  // Differences, not the products with NaN that fmax would lose.
  if (frame.mode != Mode::invalid) {
    if (!(from_origin - from_origin == 0))
      frame.mode = Mode::invalid;
    else if (as_it_is)
      frame.mode = Mode::single;
    else if (plan.type != ScalarType::Double && float_is_enough(mean_gamma * centred, rows))
      frame.mode = Mode::split;
  }
  const bool packed = frame.mode == Mode::single || frame.mode == Mode::split;
  frame.scale = packed ? packing_scale(frame.mean_square, rows) : 1.0;
  frame.unit = frame.unit / (frame.scale * frame.scale);
}

// Centres and scales a row of z and writes its halves, where the mode has them, and half its squared norm. One warp.
template <class T>
__device__ __forceinline__ void pack_row(const Plan& plan, const Frame& frame, const double* centre, int64_t row) {
  const int lane = threadIdx.x % kWarp;
  const T* from = static_cast<const T*>(plan.z) + row * plan.dim;
  double norm = 0;
  if (frame.mode == Mode::in_double) {
#pragma unroll 4
    for (int k = lane; k < plan.dim; k += kWarp) {
      const double value = double(widen(from[k])) - centre[k];
      norm += value * value;
    }
  } else {
#pragma unroll 4
    for (int k = 2 * lane; k < plan.pitch; k += 2 * kWarp) {
      uint32_t high = 0, low = 0;
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float value = 0;
        if (k + e < plan.dim) value = float((double(widen(from[k + e])) - centre[k + e]) * frame.scale);
        const uint16_t hi = half_bits(value), lo = half_bits(value - half_value(hi));
        const double kept = double(half_value(hi)) + double(half_value(lo));
        norm += kept * kept;
        high |= uint32_t(hi) << 16 * e;
        low |= uint32_t(lo) << 16 * e;
      }
      *reinterpret_cast<uint32_t*>(plan.hi + row * plan.pitch + k) = high;
      *reinterpret_cast<uint32_t*>(plan.lo + row * plan.pitch + k) = low;
    }
  }
  norm = warp_sum(norm);
  if (lane == 0) plan.norm[row] = 0.5 * norm;
}

}  // namespace awpf
