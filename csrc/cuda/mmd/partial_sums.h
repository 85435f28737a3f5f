// Adds the kernel values of one tile to the partial sums of its strip and segment, one for each pair of groups.
#pragma once

#include "cuda/mmd/mixture.h"

namespace awpf {

// Which pairs of a tile are summed: those within the problem and, if `below`, only those below the diagonal.
struct TileMask {
  int rows, columns;  // of the tile, as far as the problem reaches
  int diagonal;       // the column of row 0 on the diagonal; clamped far outside the tile if it does not meet it
  bool below;

  __device__ TileMask(const Schedule& schedule, int strip, int tile, bool below_diagonal)
      : rows(int(smaller(kStripRows, schedule.rows - int64_t(strip) * kStripRows))),
        columns(int(smaller(kTileColumns, schedule.columns - int64_t(tile) * kTileColumns))),
        diagonal(int(smaller(larger(int64_t(strip) * kStripRows - int64_t(tile) * kTileColumns, -4096), 4096))),
        below(below_diagonal) {}

  __device__ bool operator()(int row, int column) const {
    return row < rows && column < columns && (!below || column < row + diagonal);
  }
};

// `value` is zero outside the mask, and at most `largest`. All threads of the group.
template <class ThreadGroup = ThreadBlock, class T>
__device__ __forceinline__ void add_to_partial_sums(const Plan& plan, int64_t problem, const TileRange& range, int tile,
                                                    const TileMask& mask, TilePoints<T>& tile_points,
                                                    const Fragment<T, ThreadGroup>& value, T largest) {
  const int first_g = tile_points.group[0], last_g = tile_points.group[mask.rows - 1];
  const int first_h = tile_points.group[kStripRows], last_h = tile_points.group[kStripRows + mask.columns - 1];
  const bool one_group_pair = first_g == last_g && first_h == last_h;
  const PartialSums table = plan.partial_sum_layout();
  for (int g = first_g; g <= last_g; ++g)
    for (int h = first_h; h <= last_h; ++h) {
      typename Accumulator<T>::Type sum(largest);
#pragma unroll
      for (int i = 0; i < ThreadGroup::kRows; ++i)
#pragma unroll
        for (int j = 0; j < ThreadGroup::kColumns; ++j)
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            const bool inside = one_group_pair || (tile_points.group[ThreadGroup::row(i)] == g &&
                                                   tile_points.group[kStripRows + ThreadGroup::column(j, e)] == h);
            sum.add(inside ? value[i][j][e] : T(0));
          }
      const double total = sum_over_warps(sum.total(), tile_points.scratch, ThreadGroup::rank() / kWarp,
                                          ThreadGroup::kThreads / kWarp, [] { ThreadGroup::sync(); });
      if (ThreadGroup::rank() == 0) {
        // Whether this tile is the first of the segment, or the first that meets this group of columns.
        const bool fresh = tile == range.begin || plan.group_offset(1, problem, h) >= int64_t(tile) * kTileColumns;
        double* const partial =
            plan.partial_sums + table.index(plan.start[problem].strip[0], problem, range.strip, g, range.segment, h);
        *partial = fresh ? total : *partial + total;
      }
    }
}

}  // namespace awpf
