// Adds up the partial sums that the tiles left: one block for each pair of groups, in an order that follows from the
// sizes.
#include "cuda/mmd/group_pair_sum.h"

namespace awpf {
namespace {

constexpr int kReduceThreads = 128;

__global__ void __launch_bounds__(kReduceThreads) reduce_kernel(Plan plan, double* sums) {
  double* scratch = shared_memory<double>();
  const int64_t group_pairs = int64_t(plan.groups[0]) * plan.groups[1], all = plan.problems * group_pairs;
  for (int64_t group_pair = blockIdx.x; group_pair < all; group_pair += gridDim.x) {
    const int64_t p = group_pair / group_pairs;
    const int g = int(group_pair % group_pairs / plan.groups[1]), h = int(group_pair % group_pairs % plan.groups[1]);
    if (plan.symmetric && h > g) continue;
    const double sum = group_pair_sum(plan, p, g, h, !plan.tables_valid(), scratch);
    if (threadIdx.x == 0) {
      sums[group_pair] = sum;
      if (plan.symmetric) sums[p * group_pairs + int64_t(h) * plan.groups[1] + g] = sum;
    }
  }
}

}  // namespace

void reduce_partial_sums(const Plan& plan, double* sums, Stream stream) {
  const int64_t group_pairs = plan.problems * plan.groups[0] * plan.groups[1];
  launch(reduce_kernel, dim3(unsigned(smaller(group_pairs, 64 * multiprocessors()))), dim3(kReduceThreads),
         kWarp * sizeof(double), stream, plan, sums);
}

}  // namespace awpf
