// Finds the pairs of a block whose distances the inner products have lost, and computes those by differences
// (common/lost_distances.h). Ordinary data have no such pair, which a look at the largest norms tells.
#pragma once

#include <vector>

#include "common/lost_distances.h"
#include "cpu/kernel_table.h"
#include "cpu/mmd/pooled_rows.h"

namespace awpf {

// The pooled rows of one problem as they were given, and how they are scaled when they are packed.
struct OriginalRows {
  Points points;
  const PooledRows* pooled;
  double scale;
  LostDistances lost;

  const void* at(int64_t position) const {
    const Group& group = pooled->groups[pooled->group_at(position)];
    return points.row(group.first_row + position - group.begin);
  }
};

// Relative to the block.
struct LostPair {
  int32_t row, column;
};

// If there are lost pairs in a block, replaces its inner products by exponents and its norms by zeros, and lists the
// pairs. The block begins at the positions `first_row` and `first_column`; `diagonal` is that of
// TypedKernels::multiply, and pairs that it leaves out are left alone.
void restore_distances(const OriginalRows& rows, const OriginalRows& columns, int64_t first_row, int64_t height,
                       int64_t first_column, int64_t width, int64_t diagonal, GramBlock<double>& block,
                       std::vector<LostPair>& lost);

}  // namespace awpf
