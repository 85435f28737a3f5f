// The seam to what Hopper alone has (sm_90a), beyond simt.h: barriers that count bytes, bulk copies that signal them,
// and asynchronous products of warpgroups.
//
// clang-format off
//   Mbarrier                                                      mbarrier, in shared memory
//   mbarrier_init, mbarrier_init_fence                            by one thread; then a barrier of the block
//   mbarrier_arrive, mbarrier_arrive_expect_tx, mbarrier_wait     .arrive, .arrive.expect_tx, looped .try_wait.parity
//   cp_async_bulk(to, from, bytes, barrier)                       cp.async.bulk to shared memory
//   named_barrier(id, threads)                                    bar.sync of some warps of the block
//   setmaxnreg_dec<N>, setmaxnreg_inc<N>                          setmaxnreg
//   matrix_descriptor(address)                                    of an operand in shared memory, as below
//   wgmma_fence, wgmma_m64n128k16, wgmma_commit, wgmma_wait<N>    wgmma.fence, .mma_async, .commit_group, .wait_group
//   has_hopper()                                                  whether the current device is of capability 9.0
// clang-format on
#pragma once

#include "cuda/device/simt.h"

namespace awpf {

using Mbarrier = uint64_t;

constexpr int kWarpgroup = 128;
constexpr int kWgmmaRows = 64, kWgmmaColumns = 128, kWgmmaDepth = 16;  // of one wgmma
constexpr int kWgmmaValues = kWgmmaRows * kWgmmaColumns / kWarpgroup;  // accumulators of a thread

// Describes an operand with 128-byte swizzling (cuda/mmd/panels.h) to wgmma: rows of 128 bytes, groups of eight rows
// 1,024 bytes apart, the first at a multiple of 1,024 bytes. `address` is that of the first row, plus 32 bytes for
// every 16 of depth. The leading offset has no meaning in this layout.
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
