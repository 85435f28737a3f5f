// Block sums of a mixture of Gaussian kernels.
//
// Computes, for every problem, S[g, h] = sum over rows i of group g, j of group h of mean_s exp(-gamma_s |z_i -
// z_j|^2). FLOPs: n^2 d for n pooled rows (the lower triangle only; 2 n m d for rows against other columns). Memory:
// two packed copies of the points, O(n d), and one block of inner products a thread; never an n x n matrix. Trick:
// inner products of a block by the packed product, then distance, exponential and sum while it is in cache.
#include "../common/ops.h"
#include "../common/weighted_sums.h"
#include "request.h"

namespace awpf {
namespace {

template <class T>
void sum_wave(const Request& request, const std::vector<int64_t>& problems, double* sums) {
  const Depth depth(request.points.dim);
  const Wave<T> wave = pack_wave<T>(request, problems, depth);
  std::vector<BlockTask> tasks;
  int64_t slots = 0;
  for (std::size_t w = 0; w < problems.size(); ++w) {
    const Pool &rows = request.rows[problems[w]], &columns = request.columns_of(problems[w]);
    for (int64_t i = 0; i < rows.size; i += block_rows<T>()) {
      const int64_t row_end = std::min(i + block_rows<T>(), rows.size);
      const int64_t last = request.symmetric() ? row_end : columns.size;
      for (int64_t j = 0; j < last; j += block_columns<T>()) {
        const Block block{i, row_end, j, std::min(j + block_columns<T>(), columns.size)};
        tasks.push_back(block_task(w, rows, columns, block, slots));
        slots += tasks.back().slots();
      }
    }
  }

  Buffer<double> partial(slots);
  const int64_t count = int64_t(tasks.size()), area = block_rows<T>() * block_stride<T>();
  Buffer<T> values(workers_for(count) * area);
  const Keep keep = request.symmetric() ? Keep::below_diagonal : Keep::all;
  for_each_task(count, [&](int64_t t, int64_t worker) {
    const BlockTask& task = tasks[t];
    const int64_t p = problems[task.wave_index];
    std::fill(partial.get() + task.slot, partial.get() + task.slot + task.slots(), 0.0);
    const int64_t diagonal = request.symmetric() ? task.block.row_begin - task.block.column_begin : kNoDiagonal;
    const GramBlock<T> gram = gram_block<T>(wave.rows[task.wave_index], wave.columns_of(task.wave_index), depth,
                                            task.block, diagonal, values.get() + worker * area, block_stride<T>());
    for_each_cell(task, request.rows[p], request.columns_of(p), [&](int64_t g, int64_t h, const Cell& cell) {
      partial[task.slot_of(g, h)] = hot<T>().rbf_sum(gram, cell, wave.mixtures[task.wave_index].view(), keep);
    });
  });

  // In the order of the tasks, whoever ran them.
  for (const BlockTask& task : tasks) {
    const int64_t p = problems[task.wave_index];
    const int64_t groups = int64_t(request.rows[p].groups.size());
    const int64_t column_groups = int64_t(request.columns_of(p).groups.size());
    const double kernels = request.mixtures[p].count();
    double* out = sums + p * groups * column_groups;
    for (int64_t g = 0; g < task.row_groups; ++g)
      for (int64_t h = 0; h < task.column_groups; ++h)
        out[(task.first_row_group + g) * column_groups + task.first_column_group + h] +=
            partial[task.slot + g * task.column_groups + h] / kernels;
  }
}

// The strict lower triangle was summed: mirror it, and add the diagonal, where every kernel is 1.
void complete_symmetric(const Request& request, double* sums) {
  for (int64_t p = 0; p < request.problems(); ++p) {
    const int64_t groups = int64_t(request.rows[p].groups.size());
    double* out = sums + p * groups * groups;
    for (int64_t g = 0; g < groups; ++g) {
      for (int64_t h = 0; h < g; ++h) out[h * groups + g] = out[g * groups + h];
      out[g * groups + g] = 2 * out[g * groups + g] + double(request.rows[p].groups[g].length);
    }
  }
}

}  // namespace

Tensor rbf_sums(Tensor z, Tensor rows, std::optional<Tensor> columns, Tensor gamma, std::optional<Tensor> centre,
                bool) {
  const Request request = read_request(z, rows, columns, gamma, centre);
  Tensor sums = torch::stable::new_zeros(
      gamma, {rows.size(0), rows.size(1), columns.has_value() ? columns->size(1) : rows.size(1)}, ScalarType::Double);
  double* out = sums.mutable_data_ptr<double>();
  for_each_wave<float>(request, [&](const auto& problems) { sum_wave<float>(request, problems, out); });
  for_each_wave<double>(request, [&](const auto& problems) { sum_wave<double>(request, problems, out); });
  if (request.symmetric()) complete_symmetric(request, out);
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
