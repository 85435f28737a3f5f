// Scratch memory on the device of a tensor, from torch's allocator: freed when the tensor goes, in the order of the
// stream.
#pragma once

#include <torch/csrc/stable/ops.h>

#include "../common/checks.h"
#include "simt.h"

namespace awpf {

// Uninitialised; when emulated, NaNs.
inline Tensor new_memory(const Tensor& like, int64_t bytes) {
  Tensor memory = torch::stable::new_empty(like, {bytes}, ScalarType::Byte);
#if defined(AWPF_EMULATE)
  std::memset(memory.mutable_data_ptr(), 0xff, size_t(bytes));
#endif
  return memory;
}

}  // namespace awpf
