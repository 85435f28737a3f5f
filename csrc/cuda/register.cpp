#include <torch/csrc/stable/library.h>

#include "common/ops.h"

// Tests compile the same kernels for the CPU, where threads of a block are emulated (csrc/emulator).
#if defined(AWPF_EMULATE)
#define AWPF_DISPATCH_KEY CPU
#else
#define AWPF_DISPATCH_KEY CUDA
#endif

STABLE_TORCH_LIBRARY_IMPL(AWPF_LIBRARY, AWPF_DISPATCH_KEY, m) {
  m.impl("rbf_sums", TORCH_BOX(&awpf::rbf_sums));
  m.impl("rbf_weighted_sums", TORCH_BOX(&awpf::rbf_weighted_sums));
  m.impl("rbf_sums_backward", TORCH_BOX(&awpf::rbf_sums_backward));
  m.impl("rbf_sums_and_gradient", TORCH_BOX(&awpf::rbf_sums_and_gradient));
  m.impl("rbf_permutation_sums", TORCH_BOX(&awpf::rbf_permutation_sums));
  m.impl("median_square_distance", TORCH_BOX(&awpf::median_square_distance));
  m.impl("scatter", TORCH_BOX(&awpf::scatter));
  m.impl("low_rank_sum", TORCH_BOX(&awpf::low_rank_sum));
}
