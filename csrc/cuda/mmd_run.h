// The kernel sums of one piece of work: a strip of rows against the tiles of one segment, into their slots.
#pragma once

#include "mmd_slots.h"

namespace awpf {

// All threads of a block; `shared` has Gram::kSharedBytes.
template <class Gram>
__device__ __forceinline__ void sum_run(const Plan& plan, int p, const TileRun& run,
                                        TilePlaces<typename Gram::Value>& places, void* shared) {
  using T = typename Gram::Value;
  __syncthreads();
  places.fill_rows(plan, 0, p, run.strip);
  for (int tile = run.begin; tile < run.end; ++tile) {
    __syncthreads();
    places.fill_columns(plan, 1, p, tile);
    __syncthreads();
    Fragment<T> value;
    Gram::multiply(plan, p, plan.frame[p].mode, places, shared, value);
    const Step* const steps = plan.steps + int64_t(p) * plan.kernels;
    const T unit = T(plan.frame[p].unit);
    const Wanted wanted(plan.schedule(p), run.strip, tile, plan.symmetric);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = fragment_row(i);
#pragma unroll
      for (int first = 0; first < 8; first += Gram::kAtOnce) {
        T sums[Gram::kAtOnce];
        kernels_of<false>(plan, steps, unit, places, value, i, first, sums, sums);
#pragma unroll
        for (int k = 0; k < Gram::kAtOnce; ++k) {
          const int j = (first + k) / 2, e = k % 2;
          value[i][j][e] = wanted(row, fragment_column(j, e)) ? sums[k] : T(0);
        }
      }
    }
    add_to_slots(plan, p, run, tile, wanted, places, value, T(plan.kernels));
  }
}

}  // namespace awpf
