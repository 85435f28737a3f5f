// What the kernels of one MMD call share: its arguments and the tables that small kernels make of them on the device,
// so that the host never has to look at a value. Passed to kernels as it is.
#pragma once

#include <optional>

#include "cuda/device/elements.h"
#include "cuda/device/memory.h"
#include "cuda/mmd/panels.h"
#include "cuda/mmd/scaling.h"
#include "cuda/mmd/schedule.h"

namespace awpf {

// Running totals over the problems, for rows (0) and columns (1); equal where there are no columns.
struct ProblemStart {
  int64_t place[2];
  int64_t strip[2];
  int64_t item;
  int64_t pair_run;
};

constexpr int kMeanFeatures = 8;  // of which a block finds the means at a time

// Sums over the points of a small problem, of a few features.
struct Spread {
  double from_origin;  // squares
  double offset;       // from there to the squares around the centre, of a mean point
};

struct Flags {
  int32_t crowded;  // rows of z are in more groups than the tables have room for
  int32_t shared;   // two problems share rows of z, and may need them centred differently
};

struct Plan {
  const void* z;
  ScalarType type;
  int64_t rows_of_z, problems;
  int dim, pitch;  // pitch of packed rows
  int groups[2];
  int kernels;
  bool symmetric;
  bool one_product;  // of halves is enough for float32
  const int64_t* ranges[2];
  const double *gamma, *given_centre;

  int64_t* place[2];  // running total over the groups of all problems
  ProblemStart* start;
  Flags* flags;
  Step* steps;
  Frame* frame;
  double *centre, *partial, *partial_square;
  int32_t* owner;
  uint16_t *hi, *lo;      // packed rows, in the order of z,
  unsigned char* panels;  // or, if this is not null, in that of the problems
  double* norm;           // half the squared norm of packed rows; of centred rows in double precision
  double* slots;

  // Of small problems (small.cu).
  Spread* spread;      // [problem][chunk of features]
  Frame* begun;        // what the kernels of a problem say about its frame
  uint32_t* arrivals;  // of blocks: a counter a crew, and one a problem

  __device__ int64_t size(int side, int64_t p) const { return start[p + 1].place[side] - start[p].place[side]; }
  __device__ int64_t pooled(int64_t p) const { return size(0, p) + (symmetric ? 0 : size(1, p)); }
  __device__ Schedule schedule(int64_t p) const { return {size(0, p), size(1, p), symmetric}; }
  __host__ __device__ int chunks() const { return int(pieces(dim, kMeanFeatures)); }
  __device__ PairSchedule pair_schedule(int64_t p) const { return {schedule(p)}; }
  __device__ int64_t first_panel(int side, int64_t p) const {
    const bool later = side == 1 && !symmetric;
    return (later ? Panels::most(rows_of_z, problems) : 0) + Panels::first(start[p].strip[side], p);
  }
  __device__ SlotTable slot_table() const { return {groups[0], groups[1]}; }
  __device__ bool tables_hold() const { return flags->crowded == 0 && flags->shared == 0; }

  // A group's first row of z, and its length: never outside of z, whatever the ranges say.
  __device__ int64_t group_begin(int side, int64_t group) const {
    return smaller(larger(ranges[side][2 * group], 0), rows_of_z);
  }
  __device__ int64_t group_length(int side, int64_t group) const {
    return larger(0, smaller(ranges[side][2 * group + 1], rows_of_z) - group_begin(side, group));
  }
  // Of a group of a problem, its first place among the problem's.
  __device__ int64_t group_start(int side, int64_t p, int64_t group) const {
    return place[side][p * groups[side] + group] - start[p].place[side];
  }

  struct Place {
    int64_t row;  // of z
    int group;
  };

  // A place of the problem, which must have it.
  __device__ Place at(int side, int64_t p, int64_t index) const {
    const int64_t* first = place[side] + p * groups[side];
    const int64_t wanted = start[p].place[side] + index;
    int low = 0, high = groups[side];  // the last group that starts at or before it
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      if (first[middle] <= wanted)
        low = middle;
      else
        high = middle;
    }
    return {group_begin(side, p * groups[side] + low) + wanted - first[low], low};
  }
};

// The last p < count with start(p) <= wanted.
template <class Start>
__device__ __forceinline__ int64_t find_problem(int64_t count, int64_t wanted, const Start& start) {
  int64_t low = 0, high = count;
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    if (start(middle) <= wanted)
      low = middle;
    else
      high = middle;
  }
  return low;
}

__device__ __forceinline__ double load_wide(const void* data, ScalarType type, int64_t index) {
  switch (type) {
    case ScalarType::Half: return widen(static_cast<const F16*>(data)[index]);
    case ScalarType::BFloat16: return widen(static_cast<const BF16*>(data)[index]);
    case ScalarType::Float: return widen(static_cast<const float*>(data)[index]);
    default: return static_cast<const double*>(data)[index];
  }
}

// Checks the arguments; no tables yet.
Plan describe(const Tensor& z, const Tensor& rows, const std::optional<Tensor>& columns);

// The tables that say where groups and problems lie, and the kernel that fills them.
void carve_layout(Plan& plan, Carver& carver);
void start_layout(const Plan& plan, Stream stream);

// A plan and the memory behind it.
struct Prepared {
  Plan plan;
  Tensor memory;
};

enum class Packing { rows, panels };

// Checks the arguments and finds room for all tables.
Prepared plan_for(const Tensor& z, const Tensor& rows, const std::optional<Tensor>& columns, const Tensor& gamma,
                  const std::optional<Tensor>& centre, bool one_product, bool with_slots,
                  Packing packing = Packing::rows);

// Starts the kernels that fill them.
void fill_tables(const Plan& plan, Stream stream);

// Both.
Prepared prepare(const Tensor& z, const Tensor& rows, const std::optional<Tensor>& columns, const Tensor& gamma,
                 const std::optional<Tensor>& centre, bool one_product, bool with_slots, Stream stream);

// Sums what the tile kernels left in the slots into `sums` (problems, row groups, column groups).
void reduce_slots(const Plan& plan, double* sums, Stream stream);

}  // namespace awpf
