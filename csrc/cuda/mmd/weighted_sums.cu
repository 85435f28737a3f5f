// The value of an estimator: a constant plus a weighted sum of block sums. Small problems need no further launch for
// it.
#include "common/ops.h"
#include "common/weighted_sums.h"
#include "cuda/device/device.h"
#include "cuda/mmd/small.h"
#include "cuda/mmd/weighted_sums.h"

namespace awpf {
namespace {

__global__ void __launch_bounds__(kWarp)
    weighted_sums_kernel(WeightedSums weighted, const double* sums, int64_t problems, int64_t group_pairs) {
  for (int64_t p = blockIdx.x; p < problems; p += gridDim.x) write_weighted_sum(weighted, p, sums, group_pairs);
}

}  // namespace

Tensor rbf_weighted_sums(Tensor z, Tensor rows, Tensor gamma, Tensor coefficients, Tensor constant, bool allow_fp16) {
  check_weights(coefficients, constant, z, rows);
  const DeviceScope scope(z);
  const int64_t problems = rows.size(0), group_pairs = rows.size(1) * rows.size(1);
  Tensor out = torch::stable::new_empty(gamma, {problems}, value_type(z));
  const WeightedSums weighted{coefficients.const_data_ptr<double>(), constant.const_data_ptr<double>(),
                              out.mutable_data_ptr(), z.scalar_type() == ScalarType::Double};
  const ProblemLayout layout = check_problems(z, rows, std::nullopt);
  const BlockGroups block_groups = block_groups_for(layout);
  if (block_groups.count > 0) {
    const Prepared prepared = plan_for(layout, z, gamma, std::nullopt, allow_fp16, true, Route::one_launch);
    Tensor sums = torch::stable::new_empty(gamma, {problems, group_pairs}, ScalarType::Double);
    sum_small(prepared, block_groups, sums.mutable_data_ptr<double>(), weighted, scope.stream);
    return out;
  }
  const Tensor sums = rbf_sums(z, rows, std::nullopt, gamma, std::nullopt, allow_fp16);
  launch(weighted_sums_kernel, dim3(unsigned(smaller(problems, 64 * multiprocessors()))), dim3(kWarp), size_t(0),
         scope.stream, weighted, sums.const_data_ptr<double>(), problems, group_pairs);
  return out;
}

}  // namespace awpf
