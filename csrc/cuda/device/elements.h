// The element types of tensors in kernels. A 16-bit number is held as its bits.
#pragma once

#include "common/checks.h"
#include "cuda/device/simt.h"

namespace awpf {

struct F16 {
  uint16_t bits;
};
struct BF16 {
  uint16_t bits;
};

__device__ __forceinline__ float widen(F16 value) { return half_value(value.bits); }
__device__ __forceinline__ float widen(BF16 value) { return bfloat16_value(value.bits); }
__device__ __forceinline__ float widen(float value) { return value; }
__device__ __forceinline__ double widen(double value) { return value; }

__device__ __forceinline__ void narrow(float value, F16* to) { to->bits = half_bits(value); }
__device__ __forceinline__ void narrow(float value, BF16* to) { to->bits = bfloat16_bits(value); }
__device__ __forceinline__ void narrow(float value, float* to) { *to = value; }
__device__ __forceinline__ void narrow(double value, double* to) { *to = value; }

// Calls f with a value of the tensor's element type, so that f may be instantiated for it.
template <class F>
void with_element_type(ScalarType type, const char* name, F f) {
  switch (type) {
    case ScalarType::Half: return f(F16{});
    case ScalarType::BFloat16: return f(BF16{});
    case ScalarType::Float: return f(float{});
    case ScalarType::Double: return f(double{});
    default: fail(name, " must be float16, bfloat16, float32 or float64");
  }
}

template <class F>
void with_element_type(const Tensor& tensor, const char* name, F f) {
  with_element_type(tensor.scalar_type(), name, f);
}

// Loads four neighbouring elements; those from `count` on are zero. `aligned` promises that all four exist and that
// their address is a multiple of their size together: then it is one load.
template <class T>
__device__ __forceinline__ void load_four(float (&to)[4], const T* from, int64_t count, bool aligned) {
  struct alignas(4 * sizeof(T)) Four {
    T value[4];
  };
  if (aligned) {
    const Four four = *reinterpret_cast<const Four*>(from);
#pragma unroll
    for (int k = 0; k < 4; ++k) to[k] = widen(four.value[k]);
  } else {
#pragma unroll
    for (int k = 0; k < 4; ++k) to[k] = k < count ? widen(from[k]) : 0.0f;
  }
}

}  // namespace awpf
