// Small problems in one launch.
#pragma once

#include "cuda/mmd/plan.h"
#include "cuda/mmd/weighted_sums.h"

namespace awpf {

struct BlockGroups {
  int count;  // 0: the problems are not to be computed in one launch
  int size;   // blocks of a group
};

BlockGroups block_groups_for(const ProblemLayout& layout);

// Computes `sums` (problems, row groups, column groups) and, if wanted, weighted sums of them. The tables need not be
// filled before.
void sum_small(const Prepared& prepared, const BlockGroups& block_groups, double* sums, const WeightedSums& weighted,
               Stream stream);

// Fills the tables alone, in one launch.
void fill_small_tables(const Prepared& prepared, const BlockGroups& block_groups, Stream stream);

}  // namespace awpf
