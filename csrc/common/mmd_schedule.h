// How the pairs of one MMD problem are cut into work, and where the partial sums of each piece go.
//
// The pooled rows are cut into strips, the columns into tiles, and the tiles of a strip into at most kSegments
// segments. A block takes one strip and one segment and writes, for each group of rows and each group of columns it
// meets, one sum. Along a strip both the segment and the group of columns can only grow, so that (segment + group)
// names the sum; likewise (strip + group of rows). Everything follows from the sizes of the problem alone: the order of
// additions depends neither on the device nor on the other problems.
#pragma once

#include "precision.h"

namespace awpf {

// Depth of packed rows is a multiple of this.
constexpr int kPackedSlab = 32;
constexpr int kStripRows = 64;
constexpr int kTileColumns = 128;
constexpr int kSegments = 32;

AWPF_HOST_DEVICE inline int64_t pieces(int64_t count, int64_t size) { return (count + size - 1) / size; }
AWPF_HOST_DEVICE inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
AWPF_HOST_DEVICE inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

// Tiles [begin, end) of one strip.
struct TileRun {
  int32_t strip, segment, begin, end;
};

struct Schedule {
  int64_t rows, columns;
  bool symmetric;  // the strict lower triangle only

  AWPF_HOST_DEVICE int64_t strips() const { return pieces(rows, kStripRows); }
  AWPF_HOST_DEVICE int64_t tiles() const { return pieces(columns, kTileColumns); }
  AWPF_HOST_DEVICE int64_t tiles_each() const { return larger(1, pieces(tiles(), kSegments)); }
  AWPF_HOST_DEVICE int64_t segments() const { return pieces(tiles(), tiles_each()); }
  AWPF_HOST_DEVICE int64_t items() const { return strips() * segments(); }

  // Tiles of a strip that hold a wanted pair.
  AWPF_HOST_DEVICE int64_t tiles_of(int64_t strip) const {
    return symmetric ? pieces(smaller((strip + 1) * kStripRows, rows), kTileColumns) : tiles();
  }

  // The longest strips come first; a run may be empty.
  AWPF_HOST_DEVICE TileRun run(int64_t item) const {
    const int64_t strip = strips() - 1 - item / segments(), segment = item % segments();
    const int64_t begin = segment * tiles_each();
    return {int32_t(strip), int32_t(segment), int32_t(begin), int32_t(smaller(begin + tiles_each(), tiles_of(strip)))};
  }
};

// The sums of all problems: those of a problem begin at row `strips before it + problem * row groups`.
struct SlotTable {
  int64_t row_groups, column_groups;

  AWPF_HOST_DEVICE int64_t width() const { return kSegments + column_groups; }
  AWPF_HOST_DEVICE int64_t slot(int64_t first_strip, int64_t problem, int64_t strip, int64_t group, int64_t segment,
                                int64_t column_group) const {
    return (first_strip + problem * row_groups + strip + group) * width() + segment + column_group;
  }
};

// Strips of all problems, if no row of z is in two groups.
AWPF_HOST_DEVICE inline int64_t most_strips(int64_t rows_of_z, int64_t problems) {
  return rows_of_z / kStripRows + problems;
}

}  // namespace awpf
