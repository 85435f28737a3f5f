// The names of cuda/device/simt.h on a CPU: a small SIMT machine for tests.
//
// Every thread of a block is a fiber with its own stack. A barrier or warp instruction suspends the fiber until all
// threads that it waits for have arrived. Blocks run one after the other, those of a cooperative launch concurrently.
// Device memory is host memory. What would be a bug on a GPU is an error or shows in the results:
// - It is an error if blocks wait for each other without a cooperative launch, or if more blocks wait than can be
// resident.
// - It is an error, which names the waiting threads, if some threads never reach a barrier or if lanes of a warp are at
//   different instructions.
// - Shared memory starts as NaNs. Zones around it are checked for stray writes after every block; the addresses given
//   to copies and matrix loads are checked at once.
// - Asynchronous copies arrive only when they are waited for, and their destinations hold NaNs until then.
// - Blocks, and threads between barriers, run in an order that tests choose (awpf_emulator_order). Results must not
//   depend on it.
// - Tensor cores add products as coarsely as any hardware in use, and exp2_approx is as inaccurate as it may be.
//
// Not modelled: memory ordering, launch limits of registers and shared memory, FMA contraction, bank conflicts, time.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <tuple>
#include <utility>

#include "emulator/number_formats.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3() = default;
  dim3(unsigned x_, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

namespace awpf {

using Stream = void*;

namespace emulator {

struct Position {
  dim3 thread, block, block_size, grid_size;
};

// What tests have chosen (awpf_emulator_single_precision), or 0.
int64_t single_precision_rows();

// The indices of the running fiber.
extern Position* current;
int lane();
// The lane `by` further on, or this one if there is none.
inline int neighbour(int by) {
  const int other = lane() + by;
  return other < 0 || other > 31 ? lane() : other;
}

void run_grid(dim3 grid, dim3 block, size_t shared_bytes, bool cooperative, const std::function<void()>& kernel);
void* shared_base();
[[noreturn]] void fail(const char* what);
void check_shared(const void* p, size_t bytes, size_t alignment, const char* what);

void block_barrier(int id, int count, const char* what);
void barrier_of_grid(const char* what);
void wait_until_at_least(const uint32_t* counter, uint32_t target, const char* what);
// Suspends the lane until all 32 have called it with the same `what`; the last one calls `compute`.
using WarpWork = void (*)(void* const* in, void* const* out);
void warp_collective(const char* what, void* in, void* out, WarpWork compute);

void cp_async(void* to, const void* from, size_t bytes, bool valid);
void cp_async_commit();
void cp_async_wait(int newest_allowed);

template <class In, class Out, class F>
Out collective(const char* what, In in, F) {
  Out out{};
  warp_collective(what, &in, &out, [](void* const* all_in, void* const* all_out) {
    F{}(reinterpret_cast<In* const*>(all_in), reinterpret_cast<Out* const*>(all_out));
  });
  return out;
}

template <class T>
struct Shuffled {
  T value;
  int source;
};

template <class T>
T shuffle(const char* what, unsigned mask, T value, int source) {
  if (mask != 0xffffffffu) fail("a shuffle must be of whole warps");
  struct Take {
    void operator()(Shuffled<T>* const* in, T* const* out) const {
      for (int l = 0; l < 32; ++l) *out[l] = in[in[l]->source & 31]->value;
    }
  };
  return collective<Shuffled<T>, T>(what, Shuffled<T>{value, source}, Take{});
}

struct Vote {
  void operator()(const bool* const* in, unsigned* const* out) const {
    unsigned ballot = 0;
    for (int l = 0; l < 32; ++l) ballot |= unsigned(*in[l]) << l;
    for (int l = 0; l < 32; ++l) *out[l] = ballot;
  }
};

}  // namespace emulator

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, Stream,
            Arguments&&... arguments) {
  const std::tuple<Parameters...> bound(static_cast<Parameters>(arguments)...);
  emulator::run_grid(grid, block, shared_bytes, false, [&] { std::apply(kernel, bound); });
}

template <class... Parameters, class... Arguments>
void launch_cooperative(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, Stream,
                        Arguments&&... arguments) {
  const std::tuple<Parameters...> bound(static_cast<Parameters>(arguments)...);
  emulator::run_grid(grid, block, shared_bytes, true, [&] { std::apply(kernel, bound); });
}

// Few, so that grids are small and blocks loop over several work items.
inline int multiprocessors() { return 3; }
// Tests choose it (awpf_emulator_resident).
int resident_blocks(const void*, int, size_t);

template <class T>
T* shared_memory() {
  return static_cast<T*>(emulator::shared_base());
}

inline void cp_async_16(void* to, const void* from, bool valid) { emulator::cp_async(to, from, 16, valid); }
inline void cp_async_commit() { emulator::cp_async_commit(); }
template <int N>
inline void cp_async_wait() {
  emulator::cp_async_wait(N);
}

inline void compiler_barrier() {}

void ldmatrix_x4(uint32_t (&to)[4], const void* row);
void ldmatrix_x4_trans(uint32_t (&to)[4], const void* row);
void mma_f16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
void mma_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
void mma_f64(double (&c)[2], double a, double b);
float exp2_approx(float x);

}  // namespace awpf

#define threadIdx (::awpf::emulator::current->thread)
#define blockIdx (::awpf::emulator::current->block)
#define blockDim (::awpf::emulator::current->block_size)
#define gridDim (::awpf::emulator::current->grid_size)

#define AWPF_TEXT_(x) #x
#define AWPF_TEXT(x) AWPF_TEXT_(x)
#define AWPF_PLACE(name) name " at " __FILE__ ":" AWPF_TEXT(__LINE__)
#define __syncthreads() ::awpf::emulator::block_barrier(0, 0, AWPF_PLACE("__syncthreads"))
#define grid_barrier() ::awpf::emulator::barrier_of_grid(AWPF_PLACE("grid_barrier"))
#define wait_for_arrivals(counter, target) \
  ::awpf::emulator::wait_until_at_least(counter, target, AWPF_PLACE("wait_for_arrivals"))
#define __shfl_sync(mask, value, source) ::awpf::emulator::shuffle(AWPF_PLACE("__shfl_sync"), mask, value, source)
#define __shfl_xor_sync(mask, value, bits) \
  ::awpf::emulator::shuffle(AWPF_PLACE("__shfl_xor_sync"), mask, value, ::awpf::emulator::lane() ^ (bits))
#define __shfl_down_sync(mask, value, delta) \
  ::awpf::emulator::shuffle(AWPF_PLACE("__shfl_down_sync"), mask, value, ::awpf::emulator::neighbour(int(delta)))
#define __shfl_up_sync(mask, value, delta) \
  ::awpf::emulator::shuffle(AWPF_PLACE("__shfl_up_sync"), mask, value, ::awpf::emulator::neighbour(-int(delta)))
#define __ballot_sync(mask, predicate)                                                                     \
  ::awpf::emulator::collective<bool, unsigned>(AWPF_PLACE("__ballot_sync"), (void(mask), bool(predicate)), \
                                               ::awpf::emulator::Vote{})
#define __any_sync(mask, predicate) (__ballot_sync(mask, predicate) != 0)
#define __all_sync(mask, predicate) (__ballot_sync(mask, predicate) == 0xffffffffu)
#define __syncwarp() void(::awpf::emulator::shuffle(AWPF_PLACE("__syncwarp"), 0xffffffffu, 0, 0))

inline void __threadfence() {}
inline float __uint_as_float(uint32_t bits) { return awpf::bit_cast<float>(bits); }
inline uint32_t __float_as_uint(float value) { return awpf::bit_cast<uint32_t>(value); }
inline int64_t __double_as_longlong(double value) { return awpf::bit_cast<int64_t>(value); }
inline double __longlong_as_double(int64_t bits) { return awpf::bit_cast<double>(bits); }
inline int __popc(uint32_t bits) { return __builtin_popcount(bits); }
template <class T>
inline T __ldg(const T* p) {
  return *p;
}
template <class T>
inline T atomicAdd(T* to, T value) {
  const T before = *to;
  *to = before + value;
  return before;
}
namespace awpf {
inline uint32_t arrive(uint32_t* counter) { return atomicAdd(counter, uint32_t(1)); }
}  // namespace awpf
template <class T>
inline T atomicMax(T* to, T value) {
  const T before = *to;
  *to = std::max(before, value);
  return before;
}
