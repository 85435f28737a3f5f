// The names of cuda/device/hopper.h on the emulator, which is stricter than the hardware:
// - the destination of a bulk copy holds NaNs until a thread has waited for its barrier, and the copy only arrives if
//   the barrier expects exactly its bytes;
// - a product is computed when it is waited for, from what its operands hold then: overwriting them too early shows.
//   Until then its results are NaN. All four warps of a warpgroup must start the same products;
// - registers that a warpgroup takes must have been given up by another one.
#pragma once

namespace awpf {

// Whether tests have chosen the compute capability 9.0 (awpf_emulator_capability).
bool has_hopper();

// Relative to the start of the shared memory window, as on the hardware, where that of a block does not begin at zero.
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
void set_max_registers(int each, bool give);
void wait_for_wgmma(int newest_allowed);
}  // namespace emulator

template <int N>
void setmaxnreg_dec() {
  emulator::set_max_registers(N, true);
}
template <int N>
void setmaxnreg_inc() {
  emulator::set_max_registers(N, false);
}
template <int N>
void wgmma_wait(float (&)[kWgmmaValues]) {
  emulator::wait_for_wgmma(N);
}

}  // namespace awpf
