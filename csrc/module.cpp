// Facts about the build, for awpf_ext.build_info(). Operations do not use this module.
#include <pybind11/pybind11.h>

PYBIND11_MODULE(_C, m) {
  m.attr("torch_version") = AWPF_TORCH_VERSION;
  m.attr("compiler") = AWPF_COMPILER;
  m.attr("instruction_sets") = AWPF_INSTRUCTION_SETS;
  m.attr("cuda_status") = AWPF_CUDA_STATUS;
  m.attr("cuda_version") = AWPF_CUDA_VERSION;
}
