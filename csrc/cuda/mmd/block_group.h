// What a group of blocks does to a small problem: it finds the centre, packs the points, and finds the sums. The blocks
// of a group wait for each other; groups do not.
#pragma once

#include "cuda/mmd/choose_precision.h"
#include "cuda/mmd/group_pair_sum.h"
#include "cuda/mmd/pack.h"
#include "cuda/mmd/tile_sums.h"

namespace awpf {

constexpr int kSmallThreads = kGramThreads;
constexpr int kMomentRows = kSmallThreads / kMomentFeatures;

struct BlockGroup {
  int index;           // which of the groups
  int rank, size;      // which of its blocks this one is, and how many there are
  uint32_t* arrivals;  // a counter of the group
  uint32_t target;     // what it reaches when all blocks have arrived once more

  __device__ __forceinline__ void barrier() {
    target += uint32_t(size);
    __syncthreads();
    if (threadIdx.x == 0) {
      arrive(arrivals);
      wait_for_arrivals(arrivals, target);
    }
    __syncthreads();
  }
};

// Whether a problem shares rows of z with another one. All threads; `found` is in shared memory.
__device__ __forceinline__ bool shares_rows(const Plan& plan, int64_t p, int32_t* found) {
  const int sides = plan.sides();
  __syncthreads();
  if (threadIdx.x == 0) *found = 0;
  __syncthreads();
  for (int side = 0; side < sides; ++side)
    for (int64_t mine = p * plan.groups[side]; mine < (p + 1) * plan.groups[side]; ++mine) {
      const int64_t begin = plan.group_begin(side, mine), end = begin + plan.group_length(side, mine);
      for (int other = 0; other < sides; ++other)
        for (int64_t k = threadIdx.x; k < plan.problems * plan.groups[other]; k += kSmallThreads) {
          const int64_t first = plan.group_begin(other, k);
          const bool overlap = larger(first, begin) < smaller(first + plan.group_length(other, k), end);
          if (overlap && k / plan.groups[other] != p) *found = 1;
        }
    }
  __syncthreads();
  return *found != 0;
}

// Computes the centre and the moments, kMomentFeatures features at a time. `scratch` has two numbers for each warp and
// feature.
template <class T>
__device__ __forceinline__ void find_centre(const SmallPlan& plan, int64_t p, const BlockGroup& blocks,
                                            double* scratch) {
  const T* z = static_cast<const T*>(plan.z);
  const int feature = threadIdx.x % kMomentFeatures, lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t rows = plan.pooled(p);
  const double count = rows > 0 ? double(rows) : 1.0;
  for (int chunk = blocks.rank; chunk < plan.feature_chunks(); chunk += blocks.size) {
    const int k = chunk * kMomentFeatures + feature;
    double sum = 0, squares = 0;
    for (int side = 0; side < plan.sides(); ++side)
      for (int64_t group = p * plan.groups[side]; group < (p + 1) * plan.groups[side] && k < plan.dim; ++group) {
        const T* from = z + plan.group_begin(side, group) * plan.dim + k;
        const int64_t length = plan.group_length(side, group);
#pragma unroll 16
        for (int64_t row = threadIdx.x / kMomentFeatures; row < length; row += kMomentRows) {
          const double value = widen(from[row * plan.dim]);
          sum += value;
          squares += value * value;
        }
      }
#pragma unroll
    for (int by = kMomentFeatures; by < kWarp; by *= 2) {
      sum += __shfl_xor_sync(kWholeWarp, sum, by);
      squares += __shfl_xor_sync(kWholeWarp, squares, by);
    }
    __syncthreads();
    if (lane < kMomentFeatures) {
      scratch[2 * (warp * kMomentFeatures + lane)] = sum;
      scratch[2 * (warp * kMomentFeatures + lane) + 1] = squares;
    }
    __syncthreads();
    if (warp > 0) continue;
    sum = squares = 0;
    double offset = 0;
    if (lane < kMomentFeatures && k < plan.dim) {
      for (int w = 0; w < kSmallThreads / kWarp; ++w) {
        sum += scratch[2 * (w * kMomentFeatures + lane)];
        squares += scratch[2 * (w * kMomentFeatures + lane) + 1];
      }
      const double mean = sum / count;
      const double chosen = plan.given_centre != nullptr ? plan.given_centre[p * plan.dim + k] : mean;
      plan.centre[p * plan.dim + k] = chosen;
      offset = chosen * (chosen - 2.0 * mean);
    }
    squares = warp_sum(squares);
    offset = warp_sum(offset);
    if (lane == 0) plan.moments[p * plan.feature_chunks() + chunk] = {squares, offset};
  }
}

// Every block of the group computes the scaling for itself. All threads; `shared` has room for a PrecisionSample.
__device__ __forceinline__ Scaling find_scaling(const SmallPlan& plan, int64_t p, void* shared) {
  PrecisionSample& sample = *static_cast<PrecisionSample*>(shared);
  double* const scratch = sample.numbers;
  const int64_t rows = plan.pooled(p);
  double squares = 0, offset = 0;
  for (int chunk = threadIdx.x; chunk < plan.feature_chunks(); chunk += kSmallThreads) {
    const FeatureMoments moments = plan.moments[p * plan.feature_chunks() + chunk];
    squares += moments.squares;
    offset += moments.offset;
  }
  const double from_origin = block_sum(squares, scratch) / (rows > 0 ? double(rows) : 1.0);
  const double from_centre = fmax(0.0, from_origin + block_sum(offset, scratch));
  Scaling scaling = plan.initial_scaling[p];
  choose_precision(plan, p, from_origin, from_centre, scaling, sample);
  return scaling;
}

// Packs the rows of a problem, each by a warp.
template <class T>
__device__ __forceinline__ void pack_rows(const Plan& plan, int64_t p, const BlockGroup& blocks,
                                          const Scaling& scaling) {
  constexpr int kWarps = kSmallThreads / kWarp;
  for (int side = 0; side < plan.sides(); ++side)
    for (int64_t i = blocks.rank * kWarps + threadIdx.x / kWarp; i < plan.size(side, p); i += blocks.size * kWarps)
      pack_row<T>(plan, scaling, plan.centre + p * plan.dim, plan.row_ref(side, p, i).row);
}

// Computes every blocks.size-th tile range of a problem.
template <class Gram>
__device__ __forceinline__ void sum_ranges(const Plan& plan, int64_t p, const BlockGroup& blocks,
                                           TilePoints<typename Gram::Value>& tile_points, void* shared) {
  const Schedule schedule = plan.schedule(p);
  const int each = int(schedule.tiles_each());
  int next = blocks.rank;
  for (int strip = int(schedule.strips()) - 1; strip >= 0; --strip) {
    const int segments = ceil_div(int(schedule.tiles_of(strip)), each);
    for (; next < segments; next += blocks.size)
      sum_range<Gram>(plan, int(p), schedule.range_of(strip, next), tile_points, shared);
    next -= segments;
  }
}

}  // namespace awpf
