// The kernel sums of one work item: a strip of rows against the tiles of one segment.
#pragma once

#include "cuda/mmd/partial_sums.h"

namespace awpf {

// Turns the inner products of a tile into kernel values, in place, and adds them to the partial sums. All threads of
// the group.
template <class ThreadGroup, int kAtOnce, class T>
__device__ __forceinline__ void sum_tile(const Plan& plan, int p, const TileRange& range, int tile,
                                         TilePoints<T>& tile_points, Fragment<T, ThreadGroup>& value) {
  const KernelStep* const steps = plan.steps + int64_t(p) * plan.kernels;
  const T unit = T(plan.scaling[p].unit);
  const TileMask mask(plan.schedule(p), range.strip, tile, plan.symmetric);
#pragma unroll
  for (int i = 0; i < ThreadGroup::kRows; ++i) {
    const int row = ThreadGroup::row(i);
#pragma unroll
    for (int first = 0; first < 2 * ThreadGroup::kColumns; first += kAtOnce) {
      T sums[kAtOnce];
      kernel_sums<false, ThreadGroup>(plan, steps, unit, tile_points, value, i, first, sums, sums);
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        const int j = (first + k) / 2, e = k % 2;
        value[i][j][e] = mask(row, ThreadGroup::column(j, e)) ? sums[k] : T(0);
      }
    }
  }
  add_to_partial_sums<ThreadGroup>(plan, p, range, tile, mask, tile_points, value, T(plan.kernels));
}

// For all threads of a block; `shared` has Gram::kSharedBytes.
template <class Gram>
__device__ __forceinline__ void sum_range(const Plan& plan, int p, const TileRange& range,
                                          TilePoints<typename Gram::Value>& tile_points, void* shared) {
  using T = typename Gram::Value;
  __syncthreads();
  tile_points.fill_rows(plan, 0, p, range.strip);
  for (int tile = range.begin; tile < range.end; ++tile) {
    __syncthreads();
    tile_points.fill_columns(plan, 1, p, tile);
    __syncthreads();
    Fragment<T> value;
    Gram::multiply(plan, p, plan.scaling[p].precision, tile_points, shared, value);
    sum_tile<ThreadBlock, Gram::kAtOnce>(plan, p, range, tile, tile_points, value);
  }
}

}  // namespace awpf
