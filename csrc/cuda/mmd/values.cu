// A constant and a weighted sum of block sums: the value of an estimator, without another launch where a problem is
// small.
#include "common/mmd_values.h"
#include "common/ops.h"
#include "cuda/device/device.h"
#include "cuda/mmd/small.h"
#include "cuda/mmd/values.h"

namespace awpf {
namespace {

__global__ void __launch_bounds__(kWarp)
    values_kernel(Values values, const double* sums, int64_t problems, int64_t cells) {
  for (int64_t p = blockIdx.x; p < problems; p += gridDim.x) write_value(values, p, sums, cells);
}

}  // namespace

Tensor rbf_weighted_sums(Tensor z, Tensor rows, Tensor gamma, Tensor coefficients, Tensor constant, bool one_product) {
  check_weights(coefficients, constant, z, rows);
  const OnDevice scope(z);
  const int64_t problems = rows.size(0), cells = rows.size(1) * rows.size(1);
  Tensor out = torch::stable::new_empty(gamma, {problems}, value_type(z));
  const Values values{coefficients.const_data_ptr<double>(), constant.const_data_ptr<double>(), out.mutable_data_ptr(),
                      z.scalar_type() == ScalarType::Double};
  const Crews crews = small_crews(describe(z, rows, std::nullopt));
  if (crews.count > 0) {
    const Prepared prepared = plan_for(z, rows, std::nullopt, gamma, std::nullopt, one_product, true);
    Tensor sums = torch::stable::new_empty(gamma, {problems, cells}, ScalarType::Double);
    sum_small(prepared.plan, crews, sums.mutable_data_ptr<double>(), values, scope.stream);
    return out;
  }
  const Tensor sums = rbf_sums(z, rows, std::nullopt, gamma, std::nullopt, one_product);
  launch(values_kernel, dim3(unsigned(smaller(problems, 64 * multiprocessors()))), dim3(kWarp), size_t(0), scope.stream,
         values, sums.const_data_ptr<double>(), problems, cells);
  return out;
}

}  // namespace awpf
