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

void mbarrier_init(Mbarrier* barrier, int arrivals);
void mbarrier_init_fence();
void mbarrier_arrive(Mbarrier* barrier);
void mbarrier_arrive_expect_tx(Mbarrier* barrier, int bytes);
void mbarrier_wait(Mbarrier* barrier, int parity);
void cp_async_bulk(void* to, const void* from, int bytes, Mbarrier* barrier);

inline void named_barrier(int id, int threads) { emulator::block_barrier(id, threads, "named_barrier"); }

void wgmma_fence();
void wgmma_m64n128k16(float (&c)[kWgmmaValues], uint64_t a, uint64_t b, bool add);
void wgmma_commit();

namespace emulator {
void change_registers(int each, bool give);
void wait_for_wgmma(int newest_allowed);
}  // namespace emulator

template <int N>
void setmaxnreg_dec() {
  emulator::change_registers(N, true);
}
template <int N>
void setmaxnreg_inc() {
  emulator::change_registers(N, false);
}
template <int N>
void wgmma_wait(float (&)[kWgmmaValues]) {
  emulator::wait_for_wgmma(N);
}

}  // namespace awpf
