// The names of simt.h on a GPU. All PTX of the package is here and in hopper_device.h; the emulator spells out what
// each instruction does.
#pragma once

#include <cooperative_groups.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <map>
#include <mutex>
#include <tuple>

#include "common/checks.h"

namespace awpf {

using Stream = cudaStream_t;

inline void check_cuda(cudaError_t error, const char* what) {
  AWPF_CHECK(error == cudaSuccess, what, ": ", cudaGetErrorString(error));
}

// A kernel has to opt in to more dynamic shared memory than this.
constexpr size_t kDefaultSharedBytes = 48 << 10;

inline void allow_shared(const void* kernel, size_t bytes) {
  if (bytes > kDefaultSharedBytes)
    check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)),
               "asking for shared memory");
}

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, Stream stream,
            Arguments&&... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  allow_shared(reinterpret_cast<const void*>(kernel), shared_bytes);
  kernel<<<grid, block, shared_bytes, stream>>>(static_cast<Parameters>(arguments)...);
  check_cuda(cudaGetLastError(), "launching a kernel");
}

// All blocks run at once, so they may wait for each other.
template <class... Parameters, class... Arguments>
void launch_cooperative(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, Stream stream,
                        Arguments&&... arguments) {
  allow_shared(reinterpret_cast<const void*>(kernel), shared_bytes);
  cudaLaunchAttribute cooperative{};
  cooperative.id = cudaLaunchAttributeCooperative;
  cooperative.val.cooperative = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &cooperative;
  config.numAttrs = 1;
  check_cuda(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...), "launching a kernel");
}

inline int current_device() {
  int device = 0;
  check_cuda(cudaGetDevice(&device), "asking for the device");
  return device;
}

inline int device_attribute(cudaDeviceAttr attribute) {
  int value = 0;
  check_cuda(cudaDeviceGetAttribute(&value, attribute, current_device()), "asking for a fact about the device");
  return value;
}

inline int multiprocessors() { return device_attribute(cudaDevAttrMultiProcessorCount); }

// The most blocks that a cooperative launch may have; 0 if the device has too little shared memory for one. The driver
// is asked once for each kernel, device and size.
inline int resident_blocks(const void* kernel, int threads, size_t shared_bytes) {
  static std::mutex mutex;
  static std::map<std::tuple<const void*, int, int, size_t>, int> known;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto [found, fresh] = known.try_emplace({kernel, threads, current_device(), shared_bytes}, 0);
  if (fresh && shared_bytes <= size_t(device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin))) {
    int each = 0;
    allow_shared(kernel, shared_bytes);
    check_cuda(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&each, kernel, threads, shared_bytes),
               "asking how many blocks run at once");
    found->second = each * multiprocessors();
  }
  return found->second;
}

template <class T>
__device__ __forceinline__ T* shared_memory() {
  extern __shared__ __align__(1024) unsigned char awpf_shared[];  // swizzled operands of wgmma need it
  return reinterpret_cast<T*>(awpf_shared);
}

__device__ __forceinline__ uint32_t shared_address(const void* p) { return uint32_t(__cvta_generic_to_shared(p)); }

// A barrier of all threads of a cooperative launch: what any of them wrote before it, all see after it.
__device__ __forceinline__ void grid_barrier() { cooperative_groups::this_grid().sync(); }

// Adds one to a counter in global memory and returns its old value; for one thread of a block, after a barrier of the
// block. Whoever sees the counter sees what the block wrote before (release), and this thread sees what earlier
// arrivals wrote (acquire).
__device__ __forceinline__ uint32_t arrive(uint32_t* counter) {
  __threadfence();
  const uint32_t before = atomicAdd(counter, 1u);
  __threadfence();
  return before;
}

// Waits until the counter, which may wrap around, is at `target` or beyond; for one thread, before a barrier of its
// block.
__device__ __forceinline__ void wait_for_arrivals(const uint32_t* counter, uint32_t target) {
  uint32_t found;
  do asm volatile("ld.acquire.gpu.global.u32 %0, [%1];\n" : "=r"(found) : "l"(counter) : "memory");
  while (int32_t(found - target) < 0);
  __threadfence();
}

// Copies 16 bytes to shared memory; both addresses are multiples of 16. If not `valid`, `from` is not read and zeros
// are stored.
__device__ __forceinline__ void cp_async_16(void* to, const void* from, bool valid) {
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(shared_address(to)), "l"(from), "r"(bytes)
               : "memory");
}

__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }

// Waits until all but the newest N groups of this thread have arrived.
template <int N>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(N) : "memory");
}

// Loads four 8 x 8 matrices of 16-bit elements. Lane l gives the address of row l % 8 of matrix l / 8 and receives the
// elements 2 (l % 4) and 2 (l % 4) + 1 of row l / 4 of each matrix.
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&to)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(shared_address(row))
               : "memory");
}

// The same, but each matrix is transposed: lane l receives rows 2 (l % 4) and 2 (l % 4) + 1 at column l / 4.
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&to)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(shared_address(row))
               : "memory");
}

// c (16 x 8) += a (16 x 16) b (16 x 8). With g = lane / 4 and t = lane % 4: c[0], c[1] row g, columns 2 t, 2 t + 1;
// c[2], c[3] row g + 8. a[0] row g, depths 2 t, 2 t + 1; a[1] row g + 8; a[2], a[3] the same at depth + 8. b0 column g,
// depths 2 t, 2 t + 1; b1 at depth + 8.
__device__ __forceinline__ void mma_f16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ void mma_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// c (8 x 8) += a (8 x 4) b (4 x 8): a row lane / 4, depth lane % 4; b depth lane % 4, column lane / 4; c row lane / 4,
// columns 2 (lane % 4) and 2 (lane % 4) + 1.
__device__ __forceinline__ void mma_f64(double (&c)[2], double a, double b) {
  asm volatile("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0, %1}, {%2}, {%3}, {%0, %1};\n"
               : "+d"(c[0]), "+d"(c[1])
               : "d"(a), "d"(b));
}

// Keeps the compiler from moving loads up across this line, where their values would occupy registers for longer.
__device__ __forceinline__ void compiler_barrier() { asm volatile("" ::: "memory"); }

// 2^x within two units in the last place; subnormal results are flushed to zero.
__device__ __forceinline__ float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
  return y;
}

// Conversions round to nearest even.
__device__ __forceinline__ uint16_t half_bits(float value) { return __half_as_ushort(__float2half_rn(value)); }
__device__ __forceinline__ float half_value(uint16_t bits) { return __half2float(__ushort_as_half(bits)); }
__device__ __forceinline__ uint16_t bfloat16_bits(float value) {
  return __bfloat16_as_ushort(__float2bfloat16_rn(value));
}
__device__ __forceinline__ float bfloat16_value(uint16_t bits) { return __uint_as_float(uint32_t(bits) << 16); }

}  // namespace awpf
