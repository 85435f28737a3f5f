#include "cpu/mmd/kernel_sum_call.h"

#include <limits>

#include "cpu/parallel.h"

namespace awpf {

namespace {

// Centres the problems anew whose points are so far from the centre that distances are lost (lost_distances.h): a
// single row far away draws the mean out, and all pairs would have to be computed by differences.
void leave_outliers_out(KernelSumCall& call) {
  std::vector<int64_t> problems;
  for (int64_t p = 0; p < call.problems(); ++p) {
    const double scale = call.mixtures[p].scale();
    const double limit = call.mixtures[p].lost_distances(call.points.dim).limit;
    if (call.precisions[p] == SumPrecision::fp64 && call.centerings[p].mean_square * scale * scale > limit)
      problems.push_back(p);
  }
  for_each_task(int64_t(problems.size()), [&](int64_t t, int64_t, EarlyEnd& end_early) {
    const int64_t p = problems[t];
    centre_the_bulk(call.points, call.rows[p], call.symmetric() ? nullptr : &call.columns[p], call.centerings[p].centre,
                    end_early);
  });
}

}  // namespace

KernelSumCall read_call(const Tensor& z, const Tensor& rows, const std::optional<Tensor>& columns, const Tensor& gamma,
                        const std::optional<Tensor>& centre) {
  KernelSumCall call{as_points(z), {}, {}, {}, {}, {}};
  AWPF_CHECK(call.points.dim >= 1, "z must have at least one feature");
  call.rows = read_pooled_rows(rows, call.points, "rows");
  const int64_t problems = call.problems();
  if (columns.has_value()) {
    call.columns = read_pooled_rows(*columns, call.points, "columns");
    AWPF_CHECK(int64_t(call.columns.size()) == problems, "columns must have as many problems as rows");
  }
  check_cpu_contiguous(gamma, "gamma");
  check_type(gamma, ScalarType::Double, "gamma", "float64");
  AWPF_CHECK(gamma.dim() == 2 && gamma.size(0) == problems, "gamma must have shape (problems, kernels)");
  for (int64_t p = 0; p < problems; ++p)
    call.mixtures.push_back(read_mixture(gamma.const_data_ptr<double>() + p * gamma.size(1), gamma.size(1)));
  const double* given_centres = nullptr;
  if (centre.has_value()) {
    check_cpu_contiguous(*centre, "centre");
    check_type(*centre, ScalarType::Double, "centre", "float64");
    AWPF_CHECK(centre->dim() == 2 && centre->size(0) == problems && centre->size(1) == call.points.dim,
               "centre must have shape (problems, d)");
    given_centres = centre->const_data_ptr<double>();
  }
  call.centerings = find_centres(call.points, call.rows, call.columns, given_centres);
  call.precisions = choose_precisions(call.points, call.rows, call.columns, call.mixtures, call.centerings);
  if (given_centres == nullptr) leave_outliers_out(call);
  return call;
}

template <class T>
PackedBatch<T> pack_batch(const KernelSumCall& call, const std::vector<int64_t>& problems, const DepthBlocks& depth) {
  PackedBatch<T> batch;
  for (const int64_t p : problems)
    batch.mixtures.push_back({MixtureArrays<T>(call.mixtures[p]), MixtureArrays<double>(call.mixtures[p]),
                              call.precisions[p] == SumPrecision::fp32_products});
  struct WorkItem {
    PackedRows<T>* to;
    int64_t problem, begin, end;
  };
  std::vector<WorkItem> tasks;
  batch.rows.resize(problems.size());
  if (!call.symmetric()) batch.columns.resize(problems.size());
  for (std::size_t member = 0; member < problems.size(); ++member)
    for (int side = 0; side < (call.symmetric() ? 1 : 2); ++side) {
      const PooledRows& pooled = side == 0 ? call.rows[problems[member]] : call.columns[problems[member]];
      PackedRows<T>& packed = side == 0 ? batch.rows[member] : batch.columns[member];
      const KernelMixture& mixture = call.mixtures[problems[member]];
      packed.allocate({call.points, &pooled, mixture.scale(), mixture.lost_distances(call.points.dim)}, depth);
      for (int64_t begin = 0; begin < pooled.size; begin += packing_chunk<T>())
        tasks.push_back({&packed, problems[member], begin, std::min(begin + packing_chunk<T>(), pooled.size)});
    }
  const int64_t scratch_size = packing_chunk<T>() * depth.depth;
  Buffer<T> scratch(workers_for(int64_t(tasks.size())) * scratch_size);
  for_each_task(int64_t(tasks.size()), [&](int64_t t, int64_t worker) {
    const WorkItem& task = tasks[t];
    task.to->pack(call.centerings[task.problem], task.begin, task.end, scratch.get() + worker * scratch_size);
  });
  for (const std::vector<PackedRows<T>>* side : {&batch.rows, &batch.columns})
    for (const PackedRows<T>& packed : *side)
      for (int64_t i = 0; i < packed.size; ++i)
        AWPF_CHECK(packed.norm[i] <= std::numeric_limits<T>::max(),
                   "the points are too many bandwidths apart: their squared distances overflow");
  return batch;
}

BlockTask block_task(std::size_t member, const PooledRows& rows, const PooledRows& columns, const Block& block,
                     int64_t first_partial) {
  const int64_t g = rows.group_at(block.row_begin), h = columns.group_at(block.column_begin);
  const int64_t row_groups = rows.group_at(block.row_end - 1) - g + 1;
  const int64_t column_groups = columns.group_at(block.column_end - 1) - h + 1;
  return {member, block, g, row_groups, h, column_groups, first_partial};
}

template PackedBatch<float> pack_batch<float>(const KernelSumCall&, const std::vector<int64_t>&, const DepthBlocks&);
template PackedBatch<double> pack_batch<double>(const KernelSumCall&, const std::vector<int64_t>&, const DepthBlocks&);

}  // namespace awpf
