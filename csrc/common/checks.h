// Argument checks of the native side. Python has already said what is wrong in its own words where shapes and types
// tell; these keep a direct call of torch.ops.awpf safe and report what only a look at the values shows.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <sstream>
#include <stdexcept>

// Python turns what begins with "awpf_ext: " into a ValueError of the sentence after it (ops/_autograd.py): which
// exception a C++ type becomes differs between releases of torch.
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

// The dispatcher goes by one argument's device: a pointer to another's memory must not reach a kernel.
inline void check_beside(const Tensor& tensor, const Tensor& first, const char* name, const char* first_name) {
  AWPF_CHECK(tensor.is_cpu() == first.is_cpu() && tensor.get_device_index() == first.get_device_index(), name,
             " must be on the device of ", first_name);
  AWPF_CHECK(tensor.is_contiguous(), name, " must be contiguous");
}

inline void check_type(const Tensor& tensor, ScalarType type, const char* name, const char* type_name) {
  AWPF_CHECK(tensor.scalar_type() == type, name, " must be ", type_name);
}

}  // namespace awpf
