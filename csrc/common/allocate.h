// Allocates results. Where torch cannot, it prints its C++ stack to stderr and reports a line of its headers; therefore
// sizes that overflow, and memory of the host that cannot be had, are refused here first.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdlib>
#include <initializer_list>

#include "common/checks.h"

namespace awpf {

// Python turns a message that begins with these words into a MemoryError (ops/_autograd.py).
constexpr const char* kOutOfMemory = "not enough memory";

inline void check_memory(const Tensor& like, std::initializer_list<int64_t> sizes, int64_t element_bytes) {
  int64_t bytes = element_bytes, strides = 1;  // torch computes strides of empty results too
  bool possible = true;
  for (const int64_t size : sizes)
    possible = possible && !__builtin_mul_overflow(bytes, size, &bytes) &&
               !__builtin_mul_overflow(strides, std::max<int64_t>(size, 1), &strides);
  constexpr int64_t kWorthATry = int64_t(64) << 20;
  if (possible && like.is_cpu() && bytes >= kWorthATry) {
    void* attempt = std::malloc(std::size_t(bytes));  // not touched, so that it costs no time
    possible = attempt != nullptr;
    std::free(attempt);
  }
  if (possible) return;
  std::ostringstream shape;
  for (const int64_t size : sizes) shape << (shape.tellp() > 0 ? ", " : "") << size;
  fail(kOutOfMemory, " for a result of shape (", shape.str(), ")");
}

inline int64_t bytes_of(ScalarType type) {
  switch (type) {
    case ScalarType::Half:
    case ScalarType::BFloat16: return 2;
    case ScalarType::Float: return 4;
    default: return 8;
  }
}

inline Tensor allocate(const Tensor& like, std::initializer_list<int64_t> sizes, ScalarType type) {
  check_memory(like, sizes, bytes_of(type));
  return torch::stable::new_empty(like, sizes, type);
}

inline Tensor allocate_zeros(const Tensor& like, std::initializer_list<int64_t> sizes, ScalarType type) {
  check_memory(like, sizes, bytes_of(type));
  return torch::stable::new_zeros(like, sizes, type);
}

}  // namespace awpf
