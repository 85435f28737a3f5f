// Where the rows, strips and work of each problem begin, and its kernels in order: what one block finds out for all
// problems. All threads of the block.
#pragma once

#include "cuda/device/block.h"
#include "cuda/mmd/plan.h"

namespace awpf {

// Fills the plan's places, starts and flags. `scratch` has a number a warp.
__device__ __forceinline__ void lay_out(const Plan& plan, int64_t* scratch) {
  const int sides = plan.symmetric ? 1 : 2;
  for (int side = 0; side < sides; ++side) {
    int64_t* place = plan.place[side];
    const int64_t groups = plan.problems * plan.groups[side];
    const int64_t total = block_scan(
        groups, scratch, [&](int64_t i) { return plan.group_length(side, i); },
        [&](int64_t i, int64_t before) { place[i] = before; });
    if (threadIdx.x == 0) place[groups] = total;
    __syncthreads();
  }
  const auto place_of = [&](int side, int64_t p) { return plan.place[side][p * plan.groups[side]]; };
  const auto size_of = [&](int side, int64_t p) { return place_of(side, p + 1) - place_of(side, p); };
  bool crowded = false;
  for (int side = 0; side < 2; ++side) {
    const int from = plan.symmetric ? 0 : side;
    const int64_t strips = block_scan(
        plan.problems, scratch, [&](int64_t p) { return pieces(size_of(from, p), kStripRows); },
        [&](int64_t p, int64_t before) {
          plan.start[p].strip[side] = before;
          plan.start[p].place[side] = place_of(from, p);
        });
    if (threadIdx.x == 0) {
      plan.start[plan.problems].strip[side] = strips;
      plan.start[plan.problems].place[side] = place_of(from, plan.problems);
    }
    crowded = crowded || place_of(from, plan.problems) > plan.rows_of_z;
  }
  const int64_t items = block_scan(
      plan.problems, scratch,
      [&](int64_t p) { return Schedule{size_of(0, p), size_of(plan.symmetric ? 0 : 1, p), plan.symmetric}.items(); },
      [&](int64_t p, int64_t before) { plan.start[p].item = before; });
  const int64_t pair_runs = block_scan(
      plan.problems, scratch,
      [&](int64_t p) {
        return PairSchedule{{size_of(0, p), size_of(plan.symmetric ? 0 : 1, p), plan.symmetric}}.runs();
      },
      [&](int64_t p, int64_t before) { plan.start[p].pair_run = before; });
  if (threadIdx.x == 0) {
    plan.start[plan.problems].item = items;
    plan.start[plan.problems].pair_run = pair_runs;
    plan.flags->crowded = crowded;
    plan.flags->shared = 0;
  }
}

// The kernels of a problem in order of their width; the frame's weight, mode and unit, as far as they say. One thread.
__device__ __forceinline__ void order_kernels(const double* gamma, int kernels, Step* steps, Frame& frame) {
  for (int s = 0; s < kernels; ++s) {  // insertion: there are few
    int to = s;
    for (; to > 0 && steps[to - 1].rate > gamma[s]; --to) steps[to].rate = steps[to - 1].rate;
    steps[to].rate = gamma[s];
  }
  const double widest = steps[0].rate;
  double sum;
  const bool valid = fill_steps(steps, kernels, &sum);
  frame.weight = 2.0 * sum / kernels;
  frame.mode = valid ? Mode::in_double : Mode::invalid;
  frame.unit = 2.0 * widest / 0.69314718055994530942;  // of unscaled points, for now
}

}  // namespace awpf
