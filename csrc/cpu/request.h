// One call of the kernel sums: its problems, and the packed points of a few of them at a time.
#pragma once

#include <algorithm>
#include <optional>

#include "../common/precision.h"
#include "pooled.h"

namespace awpf {

// Packed copies alive at a time, so that thousands of small problems take no more memory than a few.
constexpr int64_t kWaveBytes = int64_t(32) << 20;

struct Request {
  Points points;
  std::vector<Pool> rows, columns;  // no columns: the rows against themselves
  std::vector<KernelMixture> mixtures;
  std::vector<Frame> frames;

  bool symmetric() const { return columns.empty(); }
  const Pool& columns_of(int64_t p) const { return symmetric() ? rows[p] : columns[p]; }
  int64_t problems() const { return int64_t(rows.size()); }
  int64_t pooled_rows(int64_t p) const { return rows[p].size + (symmetric() ? 0 : columns[p].size); }
  // Of one problem's sums.
  int64_t row_groups() const { return rows.empty() ? 0 : int64_t(rows[0].groups.size()); }
  int64_t column_groups() const { return rows.empty() ? 0 : int64_t(columns_of(0).groups.size()); }
};

Request read_request(const Tensor& z, const Tensor& rows, const std::optional<Tensor>& columns, const Tensor& gamma,
                     const std::optional<Tensor>& centre);

bool in_double(const Request& request, int64_t problem);

// Some problems, packed.
template <class T>
struct Wave {
  std::vector<int64_t> problem;
  std::vector<Packed<T>> rows, columns;
  std::vector<MixtureArrays<T>> mixtures;

  const Packed<T>& columns_of(std::size_t w) const { return columns.empty() ? rows[w] : columns[w]; }
};

template <class T>
Wave<T> pack_wave(const Request& request, const std::vector<int64_t>& problems, const Depth& depth);

// Calls f(problems of the wave) for all problems computed in T, a bounded amount of packed memory at a time.
template <class T, class F>
void for_each_wave(const Request& request, const F& f) {
  std::vector<int64_t> problems;
  int64_t bytes = 0;
  for (int64_t p = 0; p < request.problems(); ++p) {
    if (in_double(request, p) != (sizeof(T) == 8)) continue;
    const int64_t more = 2 * request.pooled_rows(p) * request.points.dim * int64_t(sizeof(T));
    if (!problems.empty() && bytes + more > kWaveBytes) {
      f(problems);
      problems.clear();
      bytes = 0;
    }
    problems.push_back(p);
    bytes += more;
  }
  if (!problems.empty()) f(problems);
}

// A block of one problem of a wave, the groups it meets, and where its partial sums are kept.
struct BlockTask {
  std::size_t wave_index;
  Block block;
  int64_t first_row_group, row_groups, first_column_group, column_groups;
  int64_t slot;

  int64_t slots() const { return row_groups * column_groups; }
  int64_t slot_of(int64_t g, int64_t h) const {
    return slot + (g - first_row_group) * column_groups + (h - first_column_group);
  }
};

BlockTask block_task(std::size_t wave_index, const Pool& rows, const Pool& columns, const Block& block, int64_t slot);

// Calls f(g, h, cell) for the cells of a block: where a group of rows meets a group of columns.
template <class F>
void for_each_cell(const BlockTask& task, const Pool& rows, const Pool& columns, const F& f) {
  const Block& block = task.block;
  for (int64_t g = task.first_row_group; g < task.first_row_group + task.row_groups; ++g)
    for (int64_t h = task.first_column_group; h < task.first_column_group + task.column_groups; ++h) {
      const Group &row = rows.groups[g], &column = columns.groups[h];
      const Cell cell{std::max(row.start, block.row_begin) - block.row_begin,
                      std::min(row.start + row.length, block.row_end) - block.row_begin,
                      std::max(column.start, block.column_begin) - block.column_begin,
                      std::min(column.start + column.length, block.column_end) - block.column_begin};
      if (cell.row_begin < cell.row_end && cell.column_begin < cell.column_end) f(g, h, cell);
    }
}

}  // namespace awpf
