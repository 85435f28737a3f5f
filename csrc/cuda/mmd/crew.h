// What a crew of blocks does to a small problem: its centre, its packed points, its sums. The blocks of a crew wait for
// each other; crews do not.
#pragma once

#include "cuda/mmd/cells.h"
#include "cuda/mmd/pack.h"
#include "cuda/mmd/run.h"

namespace awpf {

constexpr int kCrewThreads = kGramThreads;
constexpr int kMeanRows = kCrewThreads / kMeanFeatures;

struct Crew {
  int index, rank, size;  // which of the crews; which of its blocks this one is
  uint32_t* arrivals;     // a counter of the crew
  uint32_t awaited;       // where it will be when all have come once more

  __device__ __forceinline__ void barrier() {
    awaited += uint32_t(size);
    __syncthreads();
    if (threadIdx.x == 0) {
      arrive(arrivals);
      wait_for_arrivals(arrivals, awaited);
    }
    __syncthreads();
  }
};

// Whether a problem shares rows of z with another one. All threads; `found` is in shared memory.
__device__ __forceinline__ bool shares_rows(const Plan& plan, int64_t p, int32_t* found) {
  const int sides = plan.symmetric ? 1 : 2;
  __syncthreads();
  if (threadIdx.x == 0) *found = 0;
  __syncthreads();
  for (int side = 0; side < sides; ++side)
    for (int64_t mine = p * plan.groups[side]; mine < (p + 1) * plan.groups[side]; ++mine) {
      const int64_t begin = plan.group_begin(side, mine), end = begin + plan.group_length(side, mine);
      for (int other = 0; other < sides; ++other)
        for (int64_t k = threadIdx.x; k < plan.problems * plan.groups[other]; k += kCrewThreads) {
          const int64_t first = plan.group_begin(other, k);
          const bool overlap = larger(first, begin) < smaller(first + plan.group_length(other, k), end);
          if (overlap && k / plan.groups[other] != p) *found = 1;
        }
    }
  __syncthreads();
  return *found != 0;
}

// The centre, a few features at a time, and for each few the spread. `scratch` has two numbers a warp and feature.
template <class T>
__device__ __forceinline__ void find_centre(const Plan& plan, int64_t p, const Crew& crew, double* scratch) {
  const T* z = static_cast<const T*>(plan.z);
  const int feature = threadIdx.x % kMeanFeatures, lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t rows = plan.pooled(p);
  const double count = rows > 0 ? double(rows) : 1.0;
  for (int chunk = crew.rank; chunk < plan.chunks(); chunk += crew.size) {
    const int k = chunk * kMeanFeatures + feature;
    double sum = 0, squares = 0;
    for (int side = 0; side < (plan.symmetric ? 1 : 2); ++side)
      for (int64_t group = p * plan.groups[side]; group < (p + 1) * plan.groups[side] && k < plan.dim; ++group) {
        const T* from = z + plan.group_begin(side, group) * plan.dim + k;
        const int64_t length = plan.group_length(side, group);
#pragma unroll 16
        for (int64_t row = threadIdx.x / kMeanFeatures; row < length; row += kMeanRows) {
          const double value = widen(from[row * plan.dim]);
          sum += value;
          squares += value * value;
        }
      }
#pragma unroll
    for (int by = kMeanFeatures; by < kWarp; by *= 2) {
      sum += __shfl_xor_sync(kWholeWarp, sum, by);
      squares += __shfl_xor_sync(kWholeWarp, squares, by);
    }
    __syncthreads();
    if (lane < kMeanFeatures) {
      scratch[2 * (warp * kMeanFeatures + lane)] = sum;
      scratch[2 * (warp * kMeanFeatures + lane) + 1] = squares;
    }
    __syncthreads();
    if (warp > 0) continue;
    sum = squares = 0;
    double offset = 0;
    if (lane < kMeanFeatures && k < plan.dim) {
      for (int w = 0; w < kCrewThreads / kWarp; ++w) {
        sum += scratch[2 * (w * kMeanFeatures + lane)];
        squares += scratch[2 * (w * kMeanFeatures + lane) + 1];
      }
      const double mean = sum / count;
      const double chosen = plan.given_centre != nullptr ? plan.given_centre[p * plan.dim + k] : mean;
      plan.centre[p * plan.dim + k] = chosen;
      offset = chosen * (chosen - 2.0 * mean);
    }
    squares = warp_sum(squares);
    offset = warp_sum(offset);
    if (lane == 0) plan.spread[p * plan.chunks() + chunk] = {squares, offset};
  }
}

// The frame, which every block of the crew finds for itself. All threads; `scratch` has a number a warp.
__device__ __forceinline__ Frame find_frame(const Plan& plan, int64_t p, double* scratch) {
  const int64_t rows = plan.pooled(p);
  double squares = 0, offset = 0;
  for (int chunk = threadIdx.x; chunk < plan.chunks(); chunk += kCrewThreads) {
    const Spread spread = plan.spread[p * plan.chunks() + chunk];
    squares += spread.from_origin;
    offset += spread.offset;
  }
  const double from_origin = block_sum(squares, scratch) / (rows > 0 ? double(rows) : 1.0);
  const double centred = fmax(0.0, from_origin + block_sum(offset, scratch));
  Frame frame = plan.begun[p];
  choose_precision(plan, rows, from_origin, centred, frame);
  return frame;
}

// The rows of a problem, one a warp.
template <class T>
__device__ __forceinline__ void pack_rows(const Plan& plan, int64_t p, const Crew& crew, const Frame& frame) {
  constexpr int kWarps = kCrewThreads / kWarp;
  for (int side = 0; side < (plan.symmetric ? 1 : 2); ++side)
    for (int64_t i = crew.rank * kWarps + threadIdx.x / kWarp; i < plan.size(side, p); i += crew.size * kWarps)
      pack_row<T>(plan, frame, plan.centre + p * plan.dim, plan.at(side, p, i).row);
}

// Every crew.size-th piece of work of a problem.
template <class Gram>
__device__ __forceinline__ void sum_runs(const Plan& plan, int64_t p, const Crew& crew,
                                         TilePlaces<typename Gram::Value>& places, void* shared) {
  const Schedule schedule = plan.schedule(p);
  const int each = int(schedule.tiles_each());
  int next = crew.rank;
  for (int strip = int(schedule.strips()) - 1; strip >= 0; --strip) {
    const int segments = ceil_div(int(schedule.tiles_of(strip)), each);
    for (; next < segments; next += crew.size)
      sum_run<Gram>(plan, int(p), schedule.run_of(strip, next), places, shared);
    next -= segments;
  }
}

}  // namespace awpf
