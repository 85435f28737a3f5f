// Block sums of a mixture of Gaussian kernels.
//
// S[g, h] = sum over rows i of group g, j of group h of mean_s exp(-gamma_s |z_i - z_j|^2), for every problem. FLOPs:
// n^2 d for n pooled rows in one product (only the lower triangle is computed), three times that for float32 input;
// bytes: the packed points once for every strip, mostly from the L2 cache. Trick: the epilogue of the product turns a
// tile of inner products into distances, exponentials and one sum; problems, strips and segments are one list of work
// items, whose length only the device knows. Seven launches, whatever the number of problems, and none waits for the
// host.
#include "common/allocate.h"
#include "cuda/device/device.h"
#include "cuda/mmd/small.h"
#include "cuda/mmd/tile_sums.h"
#include "cuda/mmd/warpgroup_sums.h"

namespace awpf {
namespace {

template <class Gram>
__global__ void __launch_bounds__(kGramThreads, Gram::kBlocksEach) sums_kernel(Plan plan) {
  using T = typename Gram::Value;
  char* const shared = shared_memory<char>();
  TilePoints<T>& tile_points = *reinterpret_cast<TilePoints<T>*>(shared + Gram::kSharedBytes);
  if (!plan.tables_valid()) return;
  const int64_t items = plan.start[plan.problems].item;
  for (int64_t item = blockIdx.x; item < items; item += gridDim.x) {
    const int p = int(find_problem(plan.problems, item, [&](int64_t q) { return plan.start[q].item; }));
    if (!Gram::computes(plan.scaling[p].precision)) continue;
    const TileRange range = plan.schedule(p).range(item - plan.start[p].item);
    if (range.begin >= range.end) continue;
    sum_range<Gram>(plan, p, range, tile_points, shared);
  }
}

template <class Gram>
void launch_sums(const Plan& plan, Stream stream) {
  const int64_t most = max_strips(plan.rows_of_z, plan.problems) * kSegments;
  const unsigned grid = unsigned(smaller(most, Gram::kBlocksEach * multiprocessors()));
  launch(sums_kernel<Gram>, dim3(grid), dim3(kGramThreads),
         Gram::kSharedBytes + sizeof(TilePoints<typename Gram::Value>), stream, plan);
}

// Panels take room for 128 rows of every problem, so problems must not be tiny.
bool pays_by_warpgroups(const ProblemLayout& layout) {
  return layout.type != ScalarType::Double && layout.rows_of_z >= kPanelRows * layout.problems && has_warpgroup_sums();
}

}  // namespace

Tensor rbf_sums(Tensor z, Tensor rows, std::optional<Tensor> columns, Tensor gamma, std::optional<Tensor> centre,
                bool allow_fp16) {
  const DeviceScope scope(z);
  const ProblemLayout layout = check_problems(z, rows, columns);
  const BlockGroups block_groups = block_groups_for(layout);
  const Route route = block_groups.count > 0       ? Route::one_launch
                      : pays_by_warpgroups(layout) ? Route::panels
                                                   : Route::rows;
  const Prepared prepared = plan_for(layout, z, gamma, centre, allow_fp16, true, route);
  const Plan& plan = prepared.plan;
  Tensor sums = allocate(gamma, {plan.problems, plan.groups[0], plan.groups[1]}, ScalarType::Double);
  if (plan.problems == 0) return sums;
  if (block_groups.count > 0) {
    sum_small(prepared, block_groups, sums.mutable_data_ptr<double>(), WeightedSums{}, scope.stream);
    return sums;
  }
  fill_tables(prepared, scope.stream);
  if (route == Route::panels)
    launch_warpgroup_sums(plan, scope.stream);
  else if (plan.type != ScalarType::Double)
    launch_sums<SplitGram>(plan, scope.stream);
  launch_sums<DoubleGram>(plan, scope.stream);
  reduce_partial_sums(plan, sums.mutable_data_ptr<double>(), scope.stream);
  return sums;
}

}  // namespace awpf
