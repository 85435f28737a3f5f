// What Hopper (sm_90a) has beyond simt.h, by one set of names for the device and the emulator: barriers that count
// bytes, bulk copies that arrive at them, and products that warpgroups start and wait for.
//
// clang-format off
//   Mbarrier                                    mbarrier, in shared memory
//   mbarrier_init, mbarrier_init_fence                 by one thread; then a barrier of the block
//   mbarrier_arrive, mbarrier_arrive_expect_tx, mbarrier_wait     mbarrier.arrive, .arrive.expect_tx, .try_wait.parity in a loop
//   cp_async_bulk(to, from, bytes, barrier)              cp.async.bulk to shared memory
//   named_barrier(id, threads)                       bar.sync of some warps of the block
//   setmaxnreg_dec<N>, setmaxnreg_inc<N>             setmaxnreg.dec, .inc
//   matrix_descriptor(address)                       of an operand in shared memory, as below
//   wgmma_fence, wgmma_m64n128k16, wgmma_commit, wgmma_wait<N>     wgmma
// clang-format on
#pragma once

#include "cuda/device/simt.h"

namespace awpf {

using Mbarrier = uint64_t;

constexpr int kWarpgroup = 128;
constexpr int kWgmmaRows = 64, kWgmmaColumns = 128, kWgmmaDepth = 16;  // of one wgmma
constexpr int kWgmmaValues = kWgmmaRows * kWgmmaColumns / kWarpgroup;  // a thread has

// Of an operand in 128-byte swizzling (cuda/mmd/panels.h): rows of 128 bytes, eight of them 1,024 bytes from
// the next eight, from a multiple of 1,024 bytes on. `address` is where it starts, plus 32 bytes for every 16 of depth.
// The leading offset means nothing in this layout.
constexpr uint64_t matrix_descriptor(uint32_t address) {
  constexpr uint64_t kSwizzle128 = 1, kLeading = 1, kStride = 1024 >> 4;
  return uint64_t((address & 0x3ffff) >> 4) | kLeading << 16 | kStride << 32 | kSwizzle128 << 62;
}

}  // namespace awpf

#if defined(AWPF_EMULATE)
#include "emulator/hopper.h"
#else
#include "cuda/device/hopper_device.h"
#endif
