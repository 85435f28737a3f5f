// Which rows of z belong to which problem and group, and where the rows, strips and work items of each problem begin.
//
// The host knows shapes alone. The tables are filled on the device (fill_layout.h), so that the host never waits to
// look at a value. Passed to kernels by value.
#pragma once

#include <optional>

#include "cuda/device/arena.h"
#include "cuda/device/elements.h"
#include "cuda/mmd/schedule.h"

namespace awpf {

// Running totals over the problems, for rows (0) and columns (1); both are equal for a symmetric problem.
struct ProblemStart {
  int64_t row[2];  // pooled rows
  int64_t strip[2];
  int64_t item;        // of Schedule
  int64_t pair_range;  // of PairSchedule
};

struct Flags {
  int32_t overfull;     // the groups have more rows in all than z: the tables have no room for them
  int32_t shared_rows;  // two problems share rows of z, and may need them centred differently
};

// A row of a problem: where it lies in z, and its group.
struct RowRef {
  int64_t row;
  int group;
};

struct ProblemLayout {
  const void* z;
  ScalarType type;
  int64_t rows_of_z, problems;
  int dim;
  int groups[2];  // of each problem: of rows, of columns
  bool symmetric;
  const int64_t* ranges[2];  // (problems, groups, 2): rows of z from begin to end

  int64_t* group_offsets[2];  // running total of rows over the groups of all problems
  ProblemStart* start;        // problems + 1
  Flags* flags;

  // Rows are side 0, columns side 1; without columns both are the same.
  __host__ __device__ int sides() const { return symmetric ? 1 : 2; }
  __device__ int64_t size(int side, int64_t p) const { return start[p + 1].row[side] - start[p].row[side]; }
  __device__ int64_t pooled(int64_t p) const { return size(0, p) + (symmetric ? 0 : size(1, p)); }
  __device__ Schedule schedule(int64_t p) const { return {size(0, p), size(1, p), symmetric}; }
  __device__ PairSchedule pair_schedule(int64_t p) const { return {schedule(p)}; }
  __device__ bool tables_valid() const { return flags->overfull == 0 && flags->shared_rows == 0; }

  // The first row of z of a group, and its length: never outside z, whatever the ranges say.
  __device__ int64_t group_begin(int side, int64_t group) const {
    return smaller(larger(ranges[side][2 * group], 0), rows_of_z);
  }
  __device__ int64_t group_length(int side, int64_t group) const {
    return larger(0, smaller(ranges[side][2 * group + 1], rows_of_z) - group_begin(side, group));
  }
  // The index of a group's first row among the rows of its problem.
  __device__ int64_t group_offset(int side, int64_t p, int64_t group) const {
    return group_offsets[side][p * groups[side] + group] - start[p].row[side];
  }

  // Row `index` of a problem, which must have it.
  __device__ RowRef row_ref(int side, int64_t p, int64_t index) const {
    const int64_t* offsets = group_offsets[side] + p * groups[side];
    const int64_t target = start[p].row[side] + index;
    int low = 0, high = groups[side];  // the last group that starts at or before the target
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      if (offsets[middle] <= target)
        low = middle;
      else
        high = middle;
    }
    return {group_begin(side, p * groups[side] + low) + target - offsets[low], low};
  }
};

// The last p < count with start(p) <= target.
template <class Start>
__device__ __forceinline__ int64_t find_problem(int64_t count, int64_t target, const Start& start) {
  int64_t low = 0, high = count;
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    if (start(middle) <= target)
      low = middle;
    else
      high = middle;
  }
  return low;
}

__device__ __forceinline__ double load_double(const void* data, ScalarType type, int64_t index) {
  switch (type) {
    case ScalarType::Half: return widen(static_cast<const F16*>(data)[index]);
    case ScalarType::BFloat16: return widen(static_cast<const BF16*>(data)[index]);
    case ScalarType::Float: return widen(static_cast<const float*>(data)[index]);
    default: return static_cast<const double*>(data)[index];
  }
}

// Checks the arguments; the tables have no memory yet.
ProblemLayout check_problems(const Tensor& z, const Tensor& rows, const std::optional<Tensor>& columns);

// Takes memory for the tables.
void allocate_layout(ProblemLayout& layout, Arena& arena);

// Starts the kernel that fills them.
void launch_layout(const ProblemLayout& layout, Stream stream);

}  // namespace awpf
