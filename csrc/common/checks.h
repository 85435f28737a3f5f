// Argument checks of the native side. Wrong shapes and types are reported by Python before an operation is called;
// these checks keep a direct call of torch.ops.awpf safe and report what only the values show.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <sstream>
#include <stdexcept>

// Python turns a message that begins with "awpf_ext: " into a ValueError of the sentence after it (ops/_autograd.py),
// because the Python exception that a C++ type becomes differs between releases of torch.
#define AWPF_CHECK(condition, ...) \
  do {                             \
    if (!(condition)) {            \
      ::awpf::fail(__VA_ARGS__);   \
    }                              \
  } while (false)

namespace awpf {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream message;
  message << "awpf_ext: ";
  (message << ... << parts);
  throw std::runtime_error(message.str());
}

inline void check_cpu_contiguous(const Tensor& tensor, const char* name) {
  AWPF_CHECK(tensor.is_cpu(), name, " must be on the CPU");
  AWPF_CHECK(tensor.is_contiguous(), name, " must be contiguous");
}

// The dispatcher looks at the device of one argument only: memory of another device must not reach a kernel.
inline void check_beside(const Tensor& tensor, const Tensor& first, const char* name, const char* first_name) {
  AWPF_CHECK(tensor.is_cpu() == first.is_cpu() && tensor.get_device_index() == first.get_device_index(), name,
             " must be on the device of ", first_name);
  AWPF_CHECK(tensor.is_contiguous(), name, " must be contiguous");
}

inline void check_type(const Tensor& tensor, ScalarType type, const char* name, const char* type_name) {
  AWPF_CHECK(tensor.scalar_type() == type, name, " must be ", type_name);
}

}  // namespace awpf
