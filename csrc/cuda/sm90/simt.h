// What Hopper (sm_90a) has beyond ../simt.h, by one set of names for the device and the emulator: barriers that count
// bytes, bulk copies that arrive at them, and products that warpgroups start and wait for.
//
// clang-format off
//   MemoryBarrier                                    mbarrier, in shared memory
//   barrier_init, barriers_are_ready                 by one thread; then a barrier of the block
//   barrier_arrive, barrier_expect, barrier_wait     mbarrier.arrive, .arrive.expect_tx, .try_wait.parity in a loop
//   copy_bulk(to, from, bytes, barrier)              cp.async.bulk to shared memory
//   named_barrier(id, threads)                       bar.sync of some warps of the block
//   matrix_descriptor(address)                       of an operand in shared memory, as below
//   products_begin, multiply_64x128, products_commit, products_wait<N>     wgmma
// clang-format on
#pragma once

#include "../simt.h"

namespace awpf {

using MemoryBarrier = uint64_t;

constexpr int kWarpgroup = 128;
constexpr int kProductRows = 64, kProductColumns = 128, kProductDepth = 16;  // of one wgmma
constexpr int kProductValues = kProductRows * kProductColumns / kWarpgroup;  // a thread has

// The one layout of operands in use: rows of 128 bytes (64 halves) one after the other, the 16-byte pieces of row r at
// their place exclusive-or r % 8, from a multiple of 1,024 bytes on.
constexpr int kSwizzledRowBytes = 128, kSwizzleAtomBytes = 8 * kSwizzledRowBytes;

__host__ __device__ constexpr int swizzled(int row, int byte_of_row) { return byte_of_row ^ row % 8 * 16; }

// Of `address` in shared memory, a multiple of 1,024 plus 32 for every 16 of depth: eight rows lie 1,024 bytes from the
// next eight. Leading offset: not used in this layout.
__host__ __device__ constexpr uint64_t matrix_descriptor(uint32_t address) {
  constexpr uint64_t kSwizzle128 = 1;
  return uint64_t((address & 0x3ffff) >> 4) | uint64_t(1) << 16 | uint64_t(kSwizzleAtomBytes >> 4) << 32 |
         kSwizzle128 << 62;
}

}  // namespace awpf

#if defined(AWPF_EMULATE)
#include "../../emulator/sm90.h"
#else
#include "simt_device.h"
#endif
