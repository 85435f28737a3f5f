// The kernel sums of one piece of work: a strip of rows against the tiles of one segment, into their slots.
#pragma once

#include "cuda/mmd/slots.h"

namespace awpf {

// From a tile's inner products, which it overwrites, to its slots. All threads of the team.
template <class Team, int kAtOnce, class T>
__device__ __forceinline__ void sum_tile(const Plan& plan, int p, const TileRun& run, int tile, TilePlaces<T>& places,
                                         Fragment<T, Team>& value) {
  const Step* const steps = plan.steps + int64_t(p) * plan.kernels;
  const T unit = T(plan.frame[p].unit);
  const Wanted wanted(plan.schedule(p), run.strip, tile, plan.symmetric);
#pragma unroll
  for (int i = 0; i < Team::kRows; ++i) {
    const int row = Team::row(i);
#pragma unroll
    for (int first = 0; first < 2 * Team::kColumns; first += kAtOnce) {
      T sums[kAtOnce];
      kernels_of<false, Team>(plan, steps, unit, places, value, i, first, sums, sums);
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        const int j = (first + k) / 2, e = k % 2;
        value[i][j][e] = wanted(row, Team::column(j, e)) ? sums[k] : T(0);
      }
    }
  }
  add_to_slots<Team>(plan, p, run, tile, wanted, places, value, T(plan.kernels));
}

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
    sum_tile<BlockTeam, Gram::kAtOnce>(plan, p, run, tile, places, value);
  }
}

}  // namespace awpf
