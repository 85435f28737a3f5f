// Packs points: centres and scales a row of z and splits its values into fp16 halves.
#pragma once

#include "cuda/device/block.h"
#include "cuda/mmd/plan.h"

namespace awpf {

// The destination of a packed row in the order of z. `store` takes the high and low halves of the values at depths k
// and k + 1, where k is even and below `depth`.
struct PackedRow {
  uint16_t *hi, *lo;  // of all rows; null if the precision of the plan needs no halves
  int64_t offset;
  int depth;

  __device__ __forceinline__ PackedRow(const Plan& plan, int64_t row)
      : hi(plan.hi), lo(plan.lo), offset(row * plan.pitch), depth(plan.pitch) {}
  __device__ __forceinline__ void store(int k, uint32_t high, uint32_t low) const {
    *reinterpret_cast<uint32_t*>(hi + offset + k) = high;
    *reinterpret_cast<uint32_t*>(lo + offset + k) = low;
  }
};

// The destination of a packed row in panels.
struct PanelRow {
  unsigned char* panel;
  int row, depth;
  bool in_two;

  // `index` counts the rows of the problem. It may be beyond the end but in the last panel, for a row of zeros.
  __device__ __forceinline__ PanelRow(const Plan& plan, Precision precision, int side, int64_t problem, int64_t index)
      : panel(plan.panels + Panels(plan.dim).slab(plan.first_panel(side, problem) + index / kPanelRows, 0)),
        row(int(index % kPanelRows)),
        depth(Panels::slabs_of(precision, plan.dim) * Panels::depth(precision)),
        in_two(precision == Precision::fp16_split) {}
  __device__ __forceinline__ void store(int k, uint32_t high, uint32_t low) const {
    constexpr int kOne = Panels::depth(Precision::fp16), kTwo = Panels::depth(Precision::fp16_split);
    unsigned char* const slab = panel + int64_t(in_two ? k / kTwo : k / kOne) * kPanelBytes;
    const int byte = (in_two ? k % kTwo : k % kOne) * int(sizeof(uint16_t));
    *reinterpret_cast<uint32_t*>(slab + Panels::offset(row, byte)) = high;
    if (in_two) *reinterpret_cast<uint32_t*>(slab + Panels::offset(row, byte + kPanelRowBytes / 2)) = low;
  }
  __device__ __forceinline__ void store_zeros() const {
    for (int k = 2 * int(threadIdx.x % kWarp); k < depth; k += 2 * kWarp) store(k, 0, 0);
  }
};

// Stores the halves of a row of z, centred if its problem is, and half its squared norm. In double precision only the
// latter. For one warp.
template <class T, class Target>
__device__ __forceinline__ void pack_row(const Plan& plan, const Scaling& scaling, const double* centre, int64_t row,
                                         const Target& target) {
  const int lane = threadIdx.x % kWarp;
  const T* from = static_cast<const T*>(plan.z) + row * plan.dim;
  double norm = 0;
  if (scaling.precision == Precision::fp64) {
#pragma unroll 4
    for (int k = lane; k < plan.dim; k += kWarp) {
      const double value = double(widen(from[k])) - centre[k];
      norm += value * value;
    }
  } else {
    const bool in_two = scaling.precision == Precision::fp16_split;
    const double share = scaling.centred ? 1 : 0;  // of the centre that is subtracted
#pragma unroll 4
    for (int k = 2 * lane; k < target.depth; k += 2 * kWarp) {
      uint32_t high = 0, low = 0;
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float value = 0;
        if (k + e < plan.dim) value = float((double(widen(from[k + e])) - share * centre[k + e]) * scaling.scale);
        const uint16_t hi = half_bits(value), lo = in_two ? half_bits(value - half_value(hi)) : uint16_t(0);
        const double kept = double(half_value(hi)) + double(half_value(lo));
        norm += kept * kept;
        high |= uint32_t(hi) << 16 * e;
        low |= uint32_t(lo) << 16 * e;
      }
      target.store(k, high, low);
    }
  }
  norm = warp_sum(norm);
  if (lane == 0) plan.half_norm[row] = 0.5 * norm;
}

template <class T>
__device__ __forceinline__ void pack_row(const Plan& plan, const Scaling& scaling, const double* centre, int64_t row) {
  pack_row<T>(plan, scaling, centre, row, PackedRow(plan, row));
}

}  // namespace awpf
