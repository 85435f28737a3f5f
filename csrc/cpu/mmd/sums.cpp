// Block sums of a mixture of Gaussian kernels.
//
// Computes, for every problem, S[g, h] = sum over rows i of group g, j of group h of mean_s exp(-gamma_s |z_i -
// z_j|^2). FLOPs: n^2 d for n pooled rows (only the lower triangle is computed), 2 n m d for rows against other
// columns. Memory: two packed copies of the points, O(n d), and one block of inner products per thread; there is never
// an n x n matrix. Trick: a block of inner products stays in cache while its distances, exponentials and sums are
// computed.
#include "common/allocate.h"
#include "common/ops.h"
#include "common/weighted_sums.h"
#include "cpu/mmd/kernel_sum_call.h"
#include "cpu/parallel.h"

namespace awpf {
namespace {

// A small problem has blocks of fewer rows, so that it keeps several threads busy. Depends on the size of the problem
// alone, so that it has the same sums in every batch.
template <class T>
int64_t block_height(int64_t rows) {
  constexpr int64_t kFewest = 32, kBlocks = 4;
  const int64_t height = std::max(kFewest, ceil_div(rows, kBlocks));
  return std::min(block_rows<T>(), round_up(height, kernels<T>().tile_rows));
}

// The blocks that cover the pairs of all members of a batch; of a symmetric problem, only those of the lower triangle.
template <class T>
std::vector<BlockTask> list_blocks(const KernelSumCall& call, const std::vector<int64_t>& problems) {
  std::vector<BlockTask> tasks;
  int64_t partials = 0;
  for (std::size_t member = 0; member < problems.size(); ++member) {
    const PooledRows &rows = call.rows[problems[member]], &columns = call.columns_of(problems[member]);
    const int64_t height = block_height<T>(rows.size);
    for (int64_t i = 0; i < rows.size; i += height) {
      const int64_t row_end = std::min(i + height, rows.size);
      const int64_t last = call.symmetric() ? row_end : columns.size;
      for (int64_t j = 0; j < last; j += block_columns<T>()) {
        const Block block{i, row_end, j, std::min(j + block_columns<T>(), columns.size)};
        tasks.push_back(block_task(member, rows, columns, block, partials));
        partials += tasks.back().partials();
      }
    }
  }
  return tasks;
}

template <class T>
void sum_batch(const KernelSumCall& call, const std::vector<int64_t>& problems, double* sums) {
  const DepthBlocks depth = depth_blocks<T>(call.points.dim);
  const PackedBatch<T> batch = pack_batch<T>(call, problems, depth);
  const std::vector<BlockTask> tasks = list_blocks<T>(call, problems);
  Buffer<double> partial(tasks.empty() ? 0 : tasks.back().first_partial + tasks.back().partials());
  const int64_t count = int64_t(tasks.size()), area = block_rows<T>() * block_stride<T>();
  Buffer<T> values(workers_for(count) * area);
  std::vector<std::vector<LostPair>> lost(workers_for(count));
  const Keep keep = call.symmetric() ? Keep::below_diagonal : Keep::all;
  for_each_task(count, [&](int64_t t, int64_t worker) {
    const BlockTask& task = tasks[t];
    const int64_t p = problems[task.member];
    std::fill(partial.get() + task.first_partial, partial.get() + task.first_partial + task.partials(), 0.0);
    const int64_t diagonal = call.symmetric() ? task.block.row_begin - task.block.column_begin : kNoDiagonal;
    const GramBlock<T> gram = gram_block<T>(batch.rows[task.member], batch.columns_of(task.member), depth, task.block,
                                            diagonal, values.get() + worker * area, block_stride<T>(), lost[worker]);
    for_each_cell(task, call.rows[p], call.columns_of(p), [&](int64_t g, int64_t h, const Cell& cell) {
      partial[task.partial_of(g, h)] = batch.mixtures[task.member].sum(gram, cell, keep);
    });
  });

  // The partial sums are added in the order of the tasks, whatever thread ran them.
  const int64_t column_groups = call.column_groups();
  for (const BlockTask& task : tasks) {
    const int64_t p = problems[task.member];
    double* out = sums + p * call.row_groups() * column_groups;
    for (int64_t g = task.first_row_group; g < task.first_row_group + task.row_groups; ++g)
      for (int64_t h = task.first_column_group; h < task.first_column_group + task.column_groups; ++h)
        out[g * column_groups + h] += partial[task.partial_of(g, h)] / call.mixtures[p].count();
  }
}

// Only the strict lower triangle was summed: mirrors it, and adds the diagonal, where every kernel is 1.
void complete_symmetric(const KernelSumCall& call, double* sums) {
  const int64_t groups = call.row_groups();
  for (int64_t p = 0; p < call.problems(); ++p) {
    double* out = sums + p * groups * groups;
    for (int64_t g = 0; g < groups; ++g) {
      for (int64_t h = 0; h < g; ++h) out[h * groups + g] = out[g * groups + h];
      out[g * groups + g] = 2 * out[g * groups + g] + double(call.rows[p].groups[g].length);
    }
  }
}

}  // namespace

Tensor rbf_sums(Tensor z, Tensor rows, std::optional<Tensor> columns, Tensor gamma, std::optional<Tensor> centre,
                bool) {
  const KernelSumCall call = read_call(z, rows, columns, gamma, centre);
  Tensor sums = allocate_zeros(
      gamma, {rows.size(0), rows.size(1), columns.has_value() ? columns->size(1) : rows.size(1)}, ScalarType::Double);
  double* out = sums.mutable_data_ptr<double>();
  for_each_batch<float>(call, [&](const auto& problems) { sum_batch<float>(call, problems, out); });
  for_each_batch<double>(call, [&](const auto& problems) { sum_batch<double>(call, problems, out); });
  if (call.symmetric()) complete_symmetric(call, out);
  return sums;
}

Tensor rbf_weighted_sums(Tensor z, Tensor rows, Tensor gamma, Tensor coefficients, Tensor constant, bool allow_fp16) {
  check_weights(coefficients, constant, z, rows);
  const Tensor sums = rbf_sums(z, rows, std::nullopt, gamma, std::nullopt, allow_fp16);
  const bool wide = z.scalar_type() == ScalarType::Double;
  Tensor values = torch::stable::new_empty(gamma, {sums.size(0)}, value_type(z));
  const int64_t cells = sums.size(1) * sums.size(2);
  for (int64_t p = 0; p < sums.size(0); ++p) {
    double value = constant.const_data_ptr<double>()[p];
    for (int64_t k = p * cells; k < (p + 1) * cells; ++k)
      value += coefficients.const_data_ptr<double>()[k] * sums.const_data_ptr<double>()[k];
    if (wide)
      values.mutable_data_ptr<double>()[p] = value;
    else
      values.mutable_data_ptr<float>()[p] = float(value);
  }
  return values;
}

}  // namespace awpf
