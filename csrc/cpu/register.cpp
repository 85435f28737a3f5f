#include <torch/csrc/stable/library.h>

#include <exception>
#include <new>
#include <string>

#include "common/allocate.h"
#include "common/ops.h"
#include "cpu/interrupt.h"
#include "cpu/kernel_table.h"

namespace {

// An argument None that is no optional one arrives as a tensor that torch cannot be asked about.
void check_given(const awpf::Tensor& tensor) {
  AWPF_CHECK(tensor.defined(), "expected a tensor for every argument that is not optional, got None");
}

template <class Argument>
void check_given(const Argument&) {}

// Calls an operation with what all of them need around it.
template <auto kOperation>
struct Call;

template <class Result, class... Arguments, Result (*kOperation)(Arguments...)>
struct Call<kOperation> {
  static Result run(Arguments... arguments) {
    (check_given(arguments), ...);
    awpf::begin_call();
    try {
      return kOperation(std::move(arguments)...);
    } catch (const std::bad_alloc&) {
      awpf::fail(awpf::kOutOfMemory, " for what is computed on the way to the result");
    }
  }
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(awpf, CPU, m) {
  m.impl("rbf_sums", TORCH_BOX(&Call<&awpf::rbf_sums>::run));
  m.impl("rbf_weighted_sums", TORCH_BOX(&Call<&awpf::rbf_weighted_sums>::run));
  m.impl("rbf_sums_backward", TORCH_BOX(&Call<&awpf::rbf_sums_backward>::run));
  m.impl("rbf_sums_and_gradient", TORCH_BOX(&Call<&awpf::rbf_sums_and_gradient>::run));
  m.impl("rbf_permutation_sums", TORCH_BOX(&Call<&awpf::rbf_permutation_sums>::run));
  m.impl("median_square_distance", TORCH_BOX(&Call<&awpf::median_square_distance>::run));
  m.impl("scatter", TORCH_BOX(&Call<&awpf::scatter>::run));
  m.impl("low_rank_sum", TORCH_BOX(&Call<&awpf::low_rank_sum>::run));
}

// For build_info(): the instruction set in use, or a message that begins with "awpf_ext: " and says why there is none.
extern "C" __attribute__((visibility("default"))) const char* awpf_instruction_set() {
  static const std::string answer = []() -> std::string {
    try {
      return awpf::kernel_table().name;
    } catch (const std::exception& error) {
      return error.what();
    }
  }();
  return answer.c_str();
}

// For build_info(), after the instruction set in use: why better ones are not.
extern "C" __attribute__((visibility("default"))) const char* awpf_rejected_instruction_sets() {
  return awpf::rejected_tables();
}
