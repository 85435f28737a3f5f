#include <torch/csrc/stable/library.h>

#include "common/ops.h"
#include "cpu/kernel_table.h"

STABLE_TORCH_LIBRARY_IMPL(awpf, CPU, m) {
  m.impl("rbf_sums", TORCH_BOX(&awpf::rbf_sums));
  m.impl("rbf_weighted_sums", TORCH_BOX(&awpf::rbf_weighted_sums));
  m.impl("rbf_sums_backward", TORCH_BOX(&awpf::rbf_sums_backward));
  m.impl("rbf_sums_and_gradient", TORCH_BOX(&awpf::rbf_sums_and_gradient));
  m.impl("rbf_permutation_sums", TORCH_BOX(&awpf::rbf_permutation_sums));
  m.impl("median_square_distance", TORCH_BOX(&awpf::median_square_distance));
  m.impl("scatter", TORCH_BOX(&awpf::scatter));
  m.impl("low_rank_sum", TORCH_BOX(&awpf::low_rank_sum));
}

// For build_info().
extern "C" __attribute__((visibility("default"))) const char* awpf_instruction_set() {
  return awpf::kernel_table().name;
}
