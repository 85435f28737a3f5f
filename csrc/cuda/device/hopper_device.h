// The names of hopper.h on a GPU of compute capability 9.0.
#pragma once

namespace awpf {

inline bool has_hopper() {
  return device_attribute(cudaDevAttrComputeCapabilityMajor) == 9 &&
         device_attribute(cudaDevAttrComputeCapabilityMinor) == 0;
}

// For one thread, before anyone uses the barrier. A phase ends after `arrivals` arrivals.
__device__ __forceinline__ void mbarrier_init(Mbarrier* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\n" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}

// For the same thread, after the last mbarrier_init: makes the barriers visible to bulk copies.
__device__ __forceinline__ void mbarrier_init_fence() {
  asm volatile("fence.mbarrier_init.release.cluster;\n" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");
}

__device__ __forceinline__ void mbarrier_arrive(Mbarrier* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];\n" ::"r"(shared_address(barrier)) : "memory");
}

// Arrives, and lets the phase end only after bulk copies have delivered `bytes` more bytes.
__device__ __forceinline__ void mbarrier_arrive_expect_tx(Mbarrier* barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;\n" ::"r"(shared_address(barrier)), "r"(bytes)
               : "memory");
}

// Waits until a phase of this parity has ended; the parities of the phases of a barrier are 0, 1, 0, ...
__device__ __forceinline__ void mbarrier_wait(Mbarrier* barrier, int parity) {
  uint32_t done;
  do {
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n"
        "}\n"
        : "=r"(done)
        : "r"(shared_address(barrier)), "r"(parity)
        : "memory");
  } while (done == 0);
}

// For one thread: copies a multiple of 16 bytes from global to shared memory, both aligned to 16, and tells `barrier`.
__device__ __forceinline__ void cp_async_bulk(void* to, const void* from, int bytes, Mbarrier* barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];\n" ::"r"(
                   shared_address(to)),
               "l"(from), "r"(bytes), "r"(shared_address(barrier))
               : "memory");
}

__device__ __forceinline__ void named_barrier(int id, int threads) {
  asm volatile("bar.sync %0, %1;\n" ::"r"(id), "r"(threads) : "memory");
}

// For all warps of a warpgroup: from now on each thread has N registers, a multiple of 8. What one warpgroup gives up
// another one can take.
template <int N>
__device__ __forceinline__ void setmaxnreg_dec() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;\n" ::"n"(N));
}
template <int N>
__device__ __forceinline__ void setmaxnreg_inc() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;\n" ::"n"(N));
}

// Needed before the first wgmma into registers that other instructions wrote or read.
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory"); }

#define AWPF_4(c, i) "+f"(c[i]), "+f"(c[i + 1]), "+f"(c[i + 2]), "+f"(c[i + 3])
#define AWPF_16(c, i) AWPF_4(c, i), AWPF_4(c, i + 4), AWPF_4(c, i + 8), AWPF_4(c, i + 12)
#define AWPF_64(c) AWPF_16(c, 0), AWPF_16(c, 16), AWPF_16(c, 32), AWPF_16(c, 48)

// A warpgroup starts c (64 x 128) = a (64 x 16) b (128 x 16)', plus c if `add`. a and b describe fp16 operands in
// shared memory. In warp w of the group, c[4 j + 2 i + e] is row 16 w + 8 i + lane / 4, column 8 j + 2 (lane % 4) + e.
__device__ __forceinline__ void wgmma_m64n128k16(float (&c)[kWgmmaValues], uint64_t a, uint64_t b, bool add) {
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "setp.ne.b32 p, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
      "%64, %65, p, 1, 1, 0, 0;\n"
      "}\n"
      : AWPF_64(c)
      : "l"(a), "l"(b), "r"(int(add))
      : "memory");
}

__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory"); }

// Waits until all but the newest N groups of products have ended: their operands may be overwritten, and with N = 0 `c`
// may be read. `c` is an operand here so that the compiler moves no read of it before the wait.
template <int N>
__device__ __forceinline__ void wgmma_wait(float (&c)[kWgmmaValues]) {
  asm volatile("wgmma.wait_group.sync.aligned %64;\n" : AWPF_64(c) : "n"(N) : "memory");
}

#undef AWPF_4
#undef AWPF_16
#undef AWPF_64

}  // namespace awpf
