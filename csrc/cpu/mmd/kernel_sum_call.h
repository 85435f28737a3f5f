// One call of the kernel sums: its problems, and the packed points of a few of them at a time.
#pragma once

#include <optional>

#include "cpu/mmd/choose_precision.h"
#include "cpu/mmd/packed_rows.h"

namespace awpf {

// The packed copies of a batch take about this much memory, so that thousands of small problems take no more than a
// few.
constexpr int64_t kBatchBytes = int64_t(32) << 20;

struct KernelSumCall {
  Points points;
  std::vector<PooledRows> rows, columns;  // without columns, the rows are summed against themselves
  std::vector<KernelMixture> mixtures;
  std::vector<Centering> centerings;
  std::vector<SumPrecision> precisions;

  bool symmetric() const { return columns.empty(); }
  const PooledRows& columns_of(int64_t p) const { return symmetric() ? rows[p] : columns[p]; }
  int64_t problems() const { return int64_t(rows.size()); }
  int64_t pooled_rows(int64_t p) const { return rows[p].size + (symmetric() ? 0 : columns[p].size); }
  // The shape of one problem's sums.
  int64_t row_groups() const { return rows.empty() ? 0 : int64_t(rows[0].groups.size()); }
  int64_t column_groups() const { return rows.empty() ? 0 : int64_t(columns_of(0).groups.size()); }
};

KernelSumCall read_call(const Tensor& z, const Tensor& rows, const std::optional<Tensor>& columns, const Tensor& gamma,
                        const std::optional<Tensor>& centre);

// The kernel values of a member of a batch: in double precision for all problems whose products are, and for some whose
// products are not.
template <class T>
struct MemberMixture {
  MixtureArrays<T> own;
  MixtureArrays<double> wide;
  bool is_wide;

  // The sum of the unweighted mixture over a cell of a block of inner products.
  double sum(const GramBlock<T>& gram, const Cell& cell, Keep keep) const {
    return is_wide ? kernels<T>().wide_rbf_sum(gram, cell, wide.view(), keep)
                   : kernels<T>().rbf_sum(gram, cell, own.view(), keep);
  }
  // TypedKernels::rbf_values
  double values(const GramBlock<T>& gram, const Cell& cell, T factor, Keep keep, double* row_sums) const {
    return is_wide ? kernels<T>().wide_rbf_values(gram, cell, wide.view(), factor, keep, row_sums)
                   : kernels<T>().rbf_values(gram, cell, own.view(), factor, keep, row_sums);
  }
};

// The packed points of some problems. Members of a batch are numbered from 0.
template <class T>
struct PackedBatch {
  std::vector<PackedRows<T>> rows, columns;
  std::vector<MemberMixture<T>> mixtures;

  const PackedRows<T>& columns_of(std::size_t member) const { return columns.empty() ? rows[member] : columns[member]; }
};

template <class T>
PackedBatch<T> pack_batch(const KernelSumCall& call, const std::vector<int64_t>& problems, const DepthBlocks& depth);

// Calls f(problems of the batch) until all problems that are computed in T are done.
template <class T, class F>
void for_each_batch(const KernelSumCall& call, const F& f) {
  std::vector<int64_t> problems;
  int64_t bytes = 0;
  for (int64_t p = 0; p < call.problems(); ++p) {
    if ((call.precisions[p] == SumPrecision::fp64) != (sizeof(T) == 8)) continue;
    const int64_t more = 2 * call.pooled_rows(p) * call.points.dim * int64_t(sizeof(T));
    if (!problems.empty() && bytes + more > kBatchBytes) {
      f(problems);
      problems.clear();
      bytes = 0;
    }
    problems.push_back(p);
    bytes += more;
  }
  if (!problems.empty()) f(problems);
}

// A block of one member of a batch, the groups that it meets, and where its partial sums are stored: one for each pair
// of those groups.
struct BlockTask {
  std::size_t member;
  Block block;
  int64_t first_row_group, row_groups, first_column_group, column_groups;
  int64_t first_partial;

  int64_t partials() const { return row_groups * column_groups; }
  int64_t partial_of(int64_t g, int64_t h) const {
    return first_partial + (g - first_row_group) * column_groups + (h - first_column_group);
  }
};

BlockTask block_task(std::size_t member, const PooledRows& rows, const PooledRows& columns, const Block& block,
                     int64_t first_partial);

// Calls f(g, h, cell) for every cell of a block: the pairs of row group g and column group h in it.
template <class F>
void for_each_cell(const BlockTask& task, const PooledRows& rows, const PooledRows& columns, const F& f) {
  const Block& block = task.block;
  for (int64_t g = task.first_row_group; g < task.first_row_group + task.row_groups; ++g)
    for (int64_t h = task.first_column_group; h < task.first_column_group + task.column_groups; ++h) {
      const Group &row = rows.groups[g], &column = columns.groups[h];
      const Cell cell{std::max(row.begin, block.row_begin) - block.row_begin,
                      std::min(row.end(), block.row_end) - block.row_begin,
                      std::max(column.begin, block.column_begin) - block.column_begin,
                      std::min(column.end(), block.column_end) - block.column_begin};
      if (cell.row_begin < cell.row_end && cell.column_begin < cell.column_end) f(g, h, cell);
    }
}

}  // namespace awpf
