// What every kernel includes: threads, barriers, shared memory, tensor-core instructions and launches, by one set of
// names for two builds. Under nvcc they are CUDA; with AWPF_EMULATE the same sources are plain C++ that runs on the
// emulator, thread by thread, so that tests need no GPU. Kernels use these names and no other way to the hardware; for
// what Hopper alone has, those of hopper.h.
//
// clang-format off
//   launch(kernel, grid, block, shared_bytes, stream, arguments...)   instead of <<<>>>
//   launch_cooperative(...)                                 the same; blocks may wait for each other
//   resident_blocks(kernel, threads, shared_bytes)          how many blocks such a launch may have
//   grid_barrier(); arrive, wait_for_arrivals               for all blocks of it; for some, through a counter
//   shared_memory<T>()                                      the block's dynamic shared memory; there is no other
//   cp_async_16, cp_async_commit, cp_async_wait<N>    cp.async
//   ldmatrix_x4, ldmatrix_x4_trans               ldmatrix
//   mma_f16, mma_bf16, mma_f64                              mma.sync m16n8k16, m16n8k16, m8n8k4
//   exp2_approx, half_bits, half_value, bfloat16_bits, bfloat16_value
//   __shfl_*_sync, __any_sync, __all_sync, __ballot_sync, __syncwarp  of whole warps
// clang-format on
#pragma once

#include <stddef.h>
#include <stdint.h>

#if defined(AWPF_EMULATE)
#include "emulator/simt.h"
#else
#include "cuda/device/simt_device.h"
#endif

namespace awpf {

constexpr int kWarp = 32;

template <class T>
__host__ __device__ constexpr T ceil_div(T value, T divisor) {
  return (value + divisor - 1) / divisor;
}

template <class T>
__host__ __device__ constexpr T round_up(T value, T multiple) {
  return ceil_div(value, multiple) * multiple;
}

}  // namespace awpf
