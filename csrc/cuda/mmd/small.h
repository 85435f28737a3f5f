// Small problems in one launch.
#pragma once

#include "cuda/mmd/plan.h"
#include "cuda/mmd/values.h"

namespace awpf {

struct Crews {
  int count, size;  // of blocks; no crews: not to be computed in one launch
};

Crews small_crews(const Plan& plan);

// `sums` (problems, row groups, column groups) and, if wanted, values of them, by a plan that no kernel has seen.
void sum_small(const Plan& plan, const Crews& crews, double* sums, const Values& values, Stream stream);

// The tables alone, in one launch.
void fill_small_tables(const Plan& plan, const Crews& crews, Stream stream);

}  // namespace awpf
