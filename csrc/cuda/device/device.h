// The device that an operation runs on, which is that of its tensors, and torch's current stream there.
#pragma once

#include <torch/csrc/stable/ops.h>

#include "common/checks.h"
#include "cuda/device/simt.h"

#if !defined(AWPF_EMULATE)
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#endif

namespace awpf {

// Makes the tensor's device the current one for as long as it lives.
class DeviceScope {
 public:
#if defined(AWPF_EMULATE)
  explicit DeviceScope(const Tensor&) {}
#else
  explicit DeviceScope(const Tensor& tensor) : guard_(tensor.get_device_index()) {
    void* current = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &current));
    stream = static_cast<Stream>(current);
  }

 private:
  torch::stable::accelerator::DeviceGuard guard_;

 public:
#endif
  Stream stream{};
};

}  // namespace awpf
