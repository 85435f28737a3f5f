// Scratch memory on the device of a tensor, from torch's allocator: freed when the tensor goes, in the order of the
// stream.
#pragma once

#include <torch/csrc/stable/ops.h>

#include "common/checks.h"
#include "cuda/device/simt.h"

namespace awpf {

// Uninitialised; when emulated, NaNs.
inline Tensor new_memory(const Tensor& like, int64_t bytes) {
  Tensor memory = torch::stable::new_empty(like, {bytes}, ScalarType::Byte);
#if defined(AWPF_EMULATE)
  std::memset(memory.mutable_data_ptr(), 0xff, size_t(bytes));
#endif
  return memory;
}

// Cuts aligned pieces off a buffer; without a buffer it counts what they take.
struct Carver {
  char* base;
  int64_t used = 0;

  template <class T>
  T* take(int64_t count) {
    T* piece = base == nullptr ? nullptr : reinterpret_cast<T*>(base + used);
    used += round_up((count > 1 ? count : 1) * int64_t(sizeof(T)), int64_t(256));
    return piece;
  }
};

}  // namespace awpf
