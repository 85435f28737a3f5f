// The names of cuda/device/hopper.h on the emulator. Beyond what hopper.h there says:
// - bulk copies leave NaNs until somebody waits for their barrier, and arrive only if it was told of as many bytes;
// - products happen when they are waited for: operands that were overwritten too early are, and until then the results
//   are NaN; all four warps of a group must start the same ones;
// - registers that a warpgroup takes must have been given by another one.
#pragma once

namespace awpf {

// Of the device that is emulated, times ten: 80 or 90.
int emulated_capability();

// As the hardware counts: from the start of the block's shared memory, which is not at zero.
uint32_t shared_address(const void* p);

void barrier_init(MemoryBarrier* barrier, int arrivals);
void barriers_are_ready();
void barrier_arrive(MemoryBarrier* barrier);
void barrier_expect(MemoryBarrier* barrier, int bytes);
void barrier_wait(MemoryBarrier* barrier, int parity);
void copy_bulk(void* to, const void* from, int bytes, MemoryBarrier* barrier);

inline void named_barrier(int id, int threads) { emulator::block_barrier(id, threads, "named_barrier"); }

void products_begin();
void multiply_64x128(float (&c)[kProductValues], uint64_t a, uint64_t b, bool add);
void products_commit();

namespace emulator {
void change_registers(int each, bool give);
void wait_for_products(int newest_allowed);
}  // namespace emulator

template <int N>
void registers_give() {
  emulator::change_registers(N, true);
}
template <int N>
void registers_take() {
  emulator::change_registers(N, false);
}
template <int N>
void products_wait(float (&)[kProductValues]) {
  emulator::wait_for_products(N);
}

}  // namespace awpf
