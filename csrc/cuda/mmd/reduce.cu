// From the slots that tiles left behind to block sums: one block a sum, additions in an order that follows from the
// sizes.
#include "cuda/mmd/cells.h"

namespace awpf {
namespace {

constexpr int kReduceThreads = 128;

__global__ void __launch_bounds__(kReduceThreads) reduce_kernel(Plan plan, double* sums) {
  double* scratch = shared_memory<double>();
  const int64_t cells = int64_t(plan.groups[0]) * plan.groups[1], all = plan.problems * cells;
  for (int64_t cell = blockIdx.x; cell < all; cell += gridDim.x) {
    const int64_t p = cell / cells;
    const int g = int(cell % cells / plan.groups[1]), h = int(cell % cells % plan.groups[1]);
    if (plan.symmetric && h > g) continue;
    const double sum = cell_sum(plan, p, g, h, !plan.tables_hold(), scratch);
    if (threadIdx.x == 0) {
      sums[cell] = sum;
      if (plan.symmetric) sums[p * cells + int64_t(h) * plan.groups[1] + g] = sum;
    }
  }
}

}  // namespace

void reduce_slots(const Plan& plan, double* sums, Stream stream) {
  const int64_t cells = plan.problems * plan.groups[0] * plan.groups[1];
  launch(reduce_kernel, dim3(unsigned(smaller(cells, 64 * multiprocessors()))), dim3(kReduceThreads),
         kWarp * sizeof(double), stream, plan, sums);
}

}  // namespace awpf
