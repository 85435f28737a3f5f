// The seam between kernels and hardware: threads, barriers, shared memory, tensor-core instructions and launches.
//
// Every kernel includes this file, and reaches the hardware only by the names below (for what Hopper alone has, by
// those of hopper.h). Under nvcc they are CUDA. With AWPF_EMULATE the same sources are plain C++ that runs on the
// emulator (csrc/emulator), thread by thread, so that tests need no GPU.
//
// clang-format off
//   launch(kernel, grid, block, shared_bytes, stream, arguments...)   instead of <<<>>>
//   launch_cooperative(...)                           the same; all blocks run at once and may wait for each other
//   resident_blocks(kernel, threads, shared_bytes)    the most blocks that such a launch may have
//   grid_barrier(); arrive, wait_for_arrivals         barriers of all blocks; of some, by a counter in global memory
//   shared_memory<T>()                                the block's dynamic shared memory; no static one is used
//   cp_async_16, cp_async_commit, cp_async_wait<N>    cp.async, .commit_group, .wait_group
//   ldmatrix_x4, ldmatrix_x4_trans                    ldmatrix .x4, .x4.trans
//   mma_f16, mma_bf16, mma_f64                        mma.sync m16n8k16, m16n8k16, m8n8k4
//   exp2_approx, half_bits, half_value, bfloat16_bits, bfloat16_value
//   __shfl_*_sync, __any_sync, __all_sync, __ballot_sync, __syncwarp: whole warps only
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

template <class T, class U>
__host__ __device__ constexpr auto ceil_div(T value, U divisor) {
  return (value + divisor - 1) / divisor;
}

template <class T>
__host__ __device__ constexpr T round_up(T value, T multiple) {
  return ceil_div(value, multiple) * multiple;
}

}  // namespace awpf
