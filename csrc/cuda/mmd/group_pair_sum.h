// The sum of one pair of groups from the partial sums that the tiles left, in an order that follows from the sizes.
#pragma once

#include "cuda/device/block.h"
#include "cuda/mmd/plan.h"

namespace awpf {

// The sum by differences, without any table: slow, but right even where groups share rows.
__device__ __forceinline__ double direct_sum(const Plan& plan, int64_t p, int g, int h, double* scratch) {
  const double* gamma = plan.gamma + p * plan.kernels;
  const int64_t row_group = p * plan.groups[0] + g, column_group = p * plan.groups[1] + h;
  const int64_t rows = plan.group_length(0, row_group), columns = plan.group_length(1, column_group);
  const int64_t first_row = plan.group_begin(0, row_group), first_column = plan.group_begin(1, column_group);
  double sum = 0;
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = threadIdx.x; j < columns; j += int(blockDim.x)) {
      double square = 0;
      for (int k = 0; k < plan.dim; ++k) {
        const double difference = load_double(plan.z, plan.type, (first_row + i) * plan.dim + k) -
                                  load_double(plan.z, plan.type, (first_column + j) * plan.dim + k);
        square += difference * difference;
      }
      for (int s = 0; s < plan.kernels; ++s) sum += exp(-gamma[s] * square);
    }
  return block_sum(sum, scratch) / plan.kernels;
}

__device__ __forceinline__ double sum_partials(const Plan& plan, int64_t p, int g, int h, double* scratch) {
  const Schedule schedule = plan.schedule(p);
  const int64_t rows = plan.group_length(0, p * plan.groups[0] + g);
  const int64_t columns = plan.group_length(1, p * plan.groups[1] + h);
  double sum = 0;
  if (rows > 0 && columns > 0) {
    const int64_t row_begin = plan.group_offset(0, p, g), column_begin = plan.group_offset(1, p, h);
    const int64_t first_strip = row_begin / kStripRows, strips = (row_begin + rows - 1) / kStripRows - first_strip + 1;
    const int64_t first_tile = column_begin / kTileColumns, last_tile = (column_begin + columns - 1) / kTileColumns;
    const int64_t each = schedule.tiles_each(), first_segment = first_tile / each;
    const int64_t segments = last_tile / each - first_segment + 1;
    const PartialSums table = plan.partial_sum_layout();
    for (int64_t k = threadIdx.x; k < strips * segments; k += int(blockDim.x)) {
      const int64_t strip = first_strip + k / segments, segment = first_segment + k % segments;
      // A strip of a symmetric problem has no tiles beyond the diagonal.
      if (larger(first_tile, segment * each) >= schedule.tiles_of(strip)) continue;
      sum += plan.partial_sums[table.index(plan.start[p].strip[0], p, strip, g, segment, h)];
    }
  }
  return block_sum(sum, scratch) / plan.kernels;
}

// For all threads of a block. `directly` says that the tables do not hold. `scratch` has an element for each warp.
__device__ __forceinline__ double group_pair_sum(const Plan& plan, int64_t p, int g, int h, bool directly,
                                                 double* scratch) {
  if (plan.scaling[p].precision == Precision::invalid) return nan("");
  if (directly) return direct_sum(plan, p, g, h, scratch);
  const double sum = sum_partials(plan, p, g, h, scratch);
  // Only the strict lower triangle was summed; on the diagonal every kernel is 1.
  return plan.symmetric && g == h ? 2 * sum + double(plan.group_length(0, p * plan.groups[0] + g)) : sum;
}

}  // namespace awpf
