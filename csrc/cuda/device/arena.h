// Scratch memory on the device of a tensor, from torch's allocator: one allocation per call, freed in stream
// order when its tensor is destroyed.
#pragma once

#include <torch/csrc/stable/ops.h>

#include "common/checks.h"
#include "cuda/device/simt.h"

namespace awpf {

// Hands out aligned pieces of one allocation; without memory it only counts their bytes.
struct Arena {
  char* base = nullptr;
  int64_t used = 0;

  template <class T>
  T* take(int64_t count) {
    T* piece = base == nullptr ? nullptr : reinterpret_cast<T*>(base + used);
    used += round_up((count > 1 ? count : 1) * int64_t(sizeof(T)), int64_t(256));
    return piece;
  }
};

// The bytes that take_all(arena) takes.
template <class F>
int64_t arena_bytes(const F& take_all) {
  Arena counter;
  take_all(counter);
  return counter.used;
}

// Allocates what take_all(arena) takes and calls it with that memory, which lives as long as the tensor returned. The
// memory is uninitialised; on the emulator it holds NaNs.
template <class F>
Tensor allocate_arena(const Tensor& like, const F& take_all) {
  const int64_t bytes = arena_bytes(take_all);
  Tensor memory = torch::stable::new_empty(like, {bytes}, ScalarType::Byte);
#if defined(AWPF_EMULATE)
  std::memset(memory.mutable_data_ptr(), 0xff, size_t(bytes));
#endif
  Arena arena{static_cast<char*>(memory.mutable_data_ptr())};
  take_all(arena);
  return memory;
}

}  // namespace awpf
