// Block sums of a mixture of Gaussian kernels.
//
// S[g, h] = sum over rows i of group g, j of group h of mean_s exp(-gamma_s |z_i - z_j|^2), for every problem. FLOPs:
// n^2 d for n pooled rows in one product (the lower triangle only), three times that for float32 input; bytes: the
// packed points once a strip, mostly from the second-level cache. Trick: the epilogue of the product turns a tile of
// inner products into distances, exponentials and one sum; problems, strips and segments are one list of work, whose
// lengths only the device knows. Seven launches, whatever the number of problems, and none waits for the host.
#include "cuda/device/device.h"
#include "cuda/mmd/run.h"
#include "cuda/mmd/small.h"
#include "cuda/mmd/warpgroup_sums.h"

namespace awpf {
namespace {

template <class Gram>
__global__ void __launch_bounds__(kGramThreads, Gram::kBlocksEach) sums_kernel(Plan plan) {
  using T = typename Gram::Value;
  char* const shared = shared_memory<char>();
  TilePlaces<T>& places = *reinterpret_cast<TilePlaces<T>*>(shared + Gram::kSharedBytes);
  if (!plan.tables_hold()) return;
  const int64_t items = plan.start[plan.problems].item;
  for (int64_t item = blockIdx.x; item < items; item += gridDim.x) {
    const int p = int(find_problem(plan.problems, item, [&](int64_t q) { return plan.start[q].item; }));
    if (!Gram::computes(plan.frame[p].mode)) continue;
    const TileRun run = plan.schedule(p).run(item - plan.start[p].item);
    if (run.begin >= run.end) continue;
    sum_run<Gram>(plan, p, run, places, shared);
  }
}

template <class Gram>
void start_sums(const Plan& plan, Stream stream) {
  const int64_t most = most_strips(plan.rows_of_z, plan.problems) * kSegments;
  const unsigned grid = unsigned(smaller(most, Gram::kBlocksEach * multiprocessors()));
  launch(sums_kernel<Gram>, dim3(grid), dim3(kGramThreads),
         Gram::kSharedBytes + sizeof(TilePlaces<typename Gram::Value>), stream, plan);
}

// Panels have room for 128 rows of every problem, so problems must not be tiny.
bool pays_by_warpgroups(const Tensor& z, const Tensor& rows) {
  return z.scalar_type() != ScalarType::Double && z.size(0) >= kPanelRows * rows.size(0) && has_warpgroup_sums();
}

}  // namespace

Tensor rbf_sums(Tensor z, Tensor rows, std::optional<Tensor> columns, Tensor gamma, std::optional<Tensor> centre,
                bool one_product) {
  const OnDevice scope(z);
  const Crews crews = small_crews(describe(z, rows, columns));
  const Packing packing = crews.count == 0 && pays_by_warpgroups(z, rows) ? Packing::panels : Packing::rows;
  const Prepared prepared = plan_for(z, rows, columns, gamma, centre, one_product, true, packing);
  const Plan& plan = prepared.plan;
  Tensor sums = torch::stable::new_empty(gamma, {plan.problems, plan.groups[0], plan.groups[1]}, ScalarType::Double);
  if (plan.problems == 0) return sums;
  if (crews.count > 0) {
    sum_small(plan, crews, sums.mutable_data_ptr<double>(), Values{}, scope.stream);
    return sums;
  }
  fill_tables(plan, scope.stream);
  if (packing == Packing::panels)
    start_warpgroup_sums(plan, scope.stream);
  else if (plan.type != ScalarType::Double)
    start_sums<SplitGram>(plan, scope.stream);
  start_sums<DoubleGram>(plan, scope.stream);
  reduce_slots(plan, sums.mutable_data_ptr<double>(), scope.stream);
  return sums;
}

}  // namespace awpf
