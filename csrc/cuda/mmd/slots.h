// Adds the kernel values of one tile up by groups of rows and columns, into the slots of its strip and segment.
#pragma once

#include "cuda/mmd/mixture.h"

namespace awpf {

// Which pairs of a tile count: those within the problem, and of a symmetric one perhaps only those below the diagonal.
struct Wanted {
  int rows, columns;  // of the tile that the problem has
  int diagonal;       // the column of row 0 that is on the diagonal; anything far away where none is
  bool below;

  __device__ Wanted(const Schedule& schedule, int strip, int tile, bool below_diagonal)
      : rows(int(smaller(kStripRows, schedule.rows - int64_t(strip) * kStripRows))),
        columns(int(smaller(kTileColumns, schedule.columns - int64_t(tile) * kTileColumns))),
        diagonal(int(smaller(larger(int64_t(strip) * kStripRows - int64_t(tile) * kTileColumns, -4096), 4096))),
        below(below_diagonal) {}

  __device__ bool operator()(int row, int column) const {
    return row < rows && column < columns && (!below || column < row + diagonal);
  }
};

// `value` is zero where not wanted; `largest` bounds it. All threads of the team.
template <class Team = BlockTeam, class T>
__device__ __forceinline__ void add_to_slots(const Plan& plan, int64_t problem, const TileRun& run, int tile,
                                             const Wanted& wanted, TilePlaces<T>& places,
                                             const Fragment<T, Team>& value, T largest) {
  const int first_g = places.group[0], last_g = places.group[wanted.rows - 1];
  const int first_h = places.group[kStripRows], last_h = places.group[kStripRows + wanted.columns - 1];
  const bool one_cell = first_g == last_g && first_h == last_h;
  const SlotTable table = plan.slot_table();
  for (int g = first_g; g <= last_g; ++g)
    for (int h = first_h; h <= last_h; ++h) {
      typename SumOf<T>::Type sum(largest);
#pragma unroll
      for (int i = 0; i < Team::kRows; ++i)
#pragma unroll
        for (int j = 0; j < Team::kColumns; ++j)
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            const bool inside =
                one_cell || (places.group[Team::row(i)] == g && places.group[kStripRows + Team::column(j, e)] == h);
            sum.add(inside ? value[i][j][e] : T(0));
          }
      const double total = sum_over_warps(sum.total(), places.scratch, Team::rank() / kWarp, Team::kThreads / kWarp,
                                          [] { Team::sync(); });
      if (Team::rank() == 0) {
        // The first of the segment, or the first to meet this group of columns.
        const bool fresh = tile == run.begin || plan.group_start(1, problem, h) >= int64_t(tile) * kTileColumns;
        double* const slot =
            plan.slots + table.slot(plan.start[problem].strip[0], problem, run.strip, g, run.segment, h);
        *slot = fresh ? total : *slot + total;
      }
    }
}

}  // namespace awpf
