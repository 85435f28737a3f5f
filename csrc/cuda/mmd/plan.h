// The arguments and device tables of one MMD call, for each kind of kernel those that it uses. Passed to kernels by
// value.
#pragma once

#include "common/kernel_mixture.h"
#include "cuda/mmd/panels.h"
#include "cuda/mmd/problem_layout.h"
#include "cuda/mmd/scaling.h"

namespace awpf {

// What every kernel reads that computes kernel values.
struct Plan : ProblemLayout {
  int kernels;
  bool allow_fp16;  // for the products of float32 points
  const double *gamma, *given_centre;

  KernelStep* steps;  // [problem][kernel], the widest kernel first
  Scaling* scaling;   // [problem]
  double* centre;     // [problem][feature]

  int pitch;              // of packed rows
  uint16_t *hi, *lo;      // packed rows in the order of z,
  unsigned char* panels;  // or, unless null, in panels in the order of the problems
  double* half_norm;      // half the squared norm of packed rows; in double precision of centred rows
  double* partial_sums;

  __device__ PartialSums partial_sum_layout() const { return {groups[0], groups[1]}; }
  __device__ int64_t first_panel(int side, int64_t p) const {
    const bool behind_rows = side == 1 && !symmetric;
    return (behind_rows ? Panels::max_panels(rows_of_z, problems) : 0) + Panels::first(start[p].strip[side], p);
  }
};

// What the four preparing launches (prepare.cu) pass to each other.
struct PreparationBuffers {
  double* strip_sums;     // [strip][feature], strips of both sides
  double* strip_squares;  // [strip]: sum of squares of all features
  int32_t* owner;         // [row of z]: a problem that holds this row
};
struct PreparationPlan : Plan, PreparationBuffers {};

// What the blocks of a group share when a small problem is one launch (small.cu).
constexpr int kMomentFeatures = 8;  // features whose means a block computes at a time

// Sums over the points of a problem, of kMomentFeatures features.
struct FeatureMoments {
  double squares;  // squared distances from the origin
  double offset;   // what takes their mean to the mean squared distance from the centre
};

struct SmallBuffers {
  FeatureMoments* moments;   // [problem][chunk of features]
  Scaling* initial_scaling;  // [problem]: what follows from its kernels alone
  uint32_t* arrivals;        // of blocks: a counter for each block group, then one for each problem
};
struct SmallPlan : Plan, SmallBuffers {
  __device__ int feature_chunks() const { return int(ceil_div(dim, kMomentFeatures)); }
};

// How a call is computed, and so which tables it needs.
enum class Route {
  one_launch,  // small problems: preparation and sums together
  rows,        // several launches, rows packed in the order of z
  panels,      // several launches, rows packed in panels for Hopper's warpgroups
};

// A plan and the memory behind it. Only the buffers of its route are allocated.
struct Prepared {
  Plan plan;
  PreparationBuffers preparation;
  SmallBuffers small;
  Tensor memory;
};

// Checks the arguments that check_problems has not seen, and takes memory for all tables.
Prepared plan_for(const ProblemLayout& layout, const Tensor& z, const Tensor& gamma,
                  const std::optional<Tensor>& centre, bool allow_fp16, bool with_partial_sums, Route route);

// Starts the kernels that fill the tables, by several launches.
void fill_tables(const Prepared& prepared, Stream stream);

// Checks all arguments and starts the kernels that fill the tables, in as few launches as possible.
Prepared prepare(const Tensor& z, const Tensor& rows, const std::optional<Tensor>& columns, const Tensor& gamma,
                 const std::optional<Tensor>& centre, bool allow_fp16, bool with_partial_sums, Stream stream);

// Adds up the partial sums that the tiles left into `sums` (problems, row groups, column groups).
void reduce_partial_sums(const Plan& plan, double* sums, Stream stream);

}  // namespace awpf
