// Where the rows, strips and work items of each problem begin: one block finds them for all problems.
#pragma once

#include "cuda/device/block.h"
#include "cuda/mmd/problem_layout.h"

namespace awpf {

// Fills the tables of the layout. All threads of the block; `scratch` has a number for each warp.
__device__ __forceinline__ void fill_layout(const ProblemLayout& layout, int64_t* scratch) {
  const int64_t problems = layout.problems;
  for (int side = 0; side < layout.sides(); ++side) {
    int64_t* offsets = layout.group_offsets[side];
    const int64_t groups = problems * layout.groups[side];
    const int64_t total = block_scan(
        groups, scratch, [&](int64_t i) { return layout.group_length(side, i); },
        [&](int64_t i, int64_t before) { offsets[i] = before; });
    if (threadIdx.x == 0) offsets[groups] = total;
    __syncthreads();
  }
  const auto first_row = [&](int side, int64_t p) { return layout.group_offsets[side][p * layout.groups[side]]; };
  const auto size_of = [&](int side, int64_t p) { return first_row(side, p + 1) - first_row(side, p); };
  bool overfull = false;
  for (int side = 0; side < 2; ++side) {
    const int from = layout.symmetric ? 0 : side;
    const int64_t strips = block_scan(
        problems, scratch, [&](int64_t p) { return ceil_div(size_of(from, p), kStripRows); },
        [&](int64_t p, int64_t before) {
          layout.start[p].strip[side] = before;
          layout.start[p].row[side] = first_row(from, p);
        });
    if (threadIdx.x == 0) {
      layout.start[problems].strip[side] = strips;
      layout.start[problems].row[side] = first_row(from, problems);
    }
    overfull = overfull || first_row(from, problems) > layout.rows_of_z;
  }
  const auto schedule_of = [&](int64_t p) {
    return PairSchedule{{size_of(0, p), size_of(layout.symmetric ? 0 : 1, p), layout.symmetric}};
  };
  const int64_t items = block_scan(
      problems, scratch, [&](int64_t p) { return schedule_of(p).items(); },
      [&](int64_t p, int64_t before) { layout.start[p].item = before; });
  const int64_t pair_ranges = block_scan(
      problems, scratch, [&](int64_t p) { return schedule_of(p).ranges(); },
      [&](int64_t p, int64_t before) { layout.start[p].pair_range = before; });
  if (threadIdx.x == 0) {
    layout.start[problems].item = items;
    layout.start[problems].pair_range = pair_ranges;
    layout.flags->overfull = overfull;
    layout.flags->shared_rows = 0;
  }
}

}  // namespace awpf
