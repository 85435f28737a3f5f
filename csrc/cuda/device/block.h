// Sums and scans over the threads of a block, in a fixed order.
#pragma once

#include "cuda/device/simt.h"

namespace awpf {

constexpr unsigned kWholeWarp = 0xffffffffu;

template <class T>
__device__ __forceinline__ T warp_sum(T value) {
#pragma unroll
  for (int bits = 16; bits > 0; bits /= 2) value += __shfl_xor_sync(kWholeWarp, value, bits);
  return value;
}

// Returns the sum over some warps to all their threads. `scratch` has an element for each warp; `sync` is their barrier
// and is called before and after its use.
template <class T, class Sync>
__device__ __forceinline__ T sum_over_warps(T value, T* scratch, int warp, int warps, const Sync& sync) {
  value = warp_sum(value);
  sync();
  if (threadIdx.x % kWarp == 0) scratch[warp] = value;
  sync();
  T total = scratch[0];
  for (int w = 1; w < warps; ++w) total += scratch[w];
  return total;
}

template <class T>
__device__ __forceinline__ T block_sum(T value, T* scratch) {
  return sum_over_warps(value, scratch, threadIdx.x / kWarp, blockDim.x / kWarp, [] { __syncthreads(); });
}

// Exclusive prefix sum: calls write(i, sum of value(k) for k < i) for every i < count and returns the total. All
// threads of the block take part; `scratch` has an element for each warp.
template <class Value, class Write>
__device__ __forceinline__ int64_t block_scan(int64_t count, int64_t* scratch, const Value& value, const Write& write) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
  int64_t before = 0;
  for (int64_t first = 0; first < count; first += blockDim.x) {
    const int64_t i = first + threadIdx.x;
    const int64_t own = i < count ? value(i) : 0;
    int64_t sum = own;
#pragma unroll
    for (int by = 1; by < kWarp; by *= 2) {
      const int64_t other = __shfl_up_sync(kWholeWarp, sum, by);
      if (lane >= by) sum += other;
    }
    __syncthreads();
    if (lane == kWarp - 1) scratch[warp] = sum;
    __syncthreads();
    int64_t chunk = 0;
    for (int w = 0; w < warps; ++w) {
      if (w < warp) sum += scratch[w];
      chunk += scratch[w];
    }
    if (i < count) write(i, before + sum - own);
    before += chunk;
  }
  return before;
}

}  // namespace awpf
