// How the pairs of one MMD problem are divided into work items, and where the partial sums of each item go.
//
// The pooled rows are divided into strips, the columns into tiles, and the tiles of a strip into at most kSegments
// segments. A block takes one strip and one segment and writes one partial sum for each group of rows and each group of
// columns that it meets. Along a strip both the segment and the group of columns can only grow, so (segment + group)
// identifies the partial sum; likewise (strip + group of rows). Everything follows from the sizes of the problem alone:
// the order of additions depends neither on the device nor on the other problems.
#pragma once

#include "common/precision.h"
#include "cuda/device/simt.h"

namespace awpf {

constexpr int kPackedSlab = 32;  // the depth of packed rows is a multiple of this
constexpr int kStripRows = 64;
constexpr int kTileColumns = 128;
constexpr int kSegments = 32;

AWPF_HOST_DEVICE inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
AWPF_HOST_DEVICE inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

// Tiles [begin, end) of one strip.
struct TileRange {
  int32_t strip, segment, begin, end;
};

struct Schedule {
  int64_t rows, columns;
  bool symmetric;  // only the strict lower triangle is computed

  AWPF_HOST_DEVICE int64_t strips() const { return ceil_div(rows, kStripRows); }
  AWPF_HOST_DEVICE int64_t tiles() const { return ceil_div(columns, kTileColumns); }
  AWPF_HOST_DEVICE int64_t tiles_each() const { return larger(1, ceil_div(tiles(), kSegments)); }
  AWPF_HOST_DEVICE int64_t segments() const { return ceil_div(tiles(), tiles_each()); }
  AWPF_HOST_DEVICE int64_t items() const { return strips() * segments(); }

  // The tiles of a strip that hold a pair to be computed.
  AWPF_HOST_DEVICE int64_t tiles_of(int64_t strip) const {
    return symmetric ? ceil_div(smaller((strip + 1) * kStripRows, rows), kTileColumns) : tiles();
  }

  // The tiles of a work item; the longest strips come first, and a range may be empty.
  AWPF_HOST_DEVICE TileRange range(int64_t item) const {
    return range_of(strips() - 1 - item / segments(), item % segments());
  }
  AWPF_HOST_DEVICE TileRange range_of(int64_t strip, int64_t segment) const {
    const int64_t begin = segment * tiles_each();
    return {int32_t(strip), int32_t(segment), int32_t(begin), int32_t(smaller(begin + tiles_each(), tiles_of(strip)))};
  }
};

// Tiles [begin, end) of two neighbouring strips, 2 pair and 2 pair + 1, which have the same range of tiles.
struct PairRange {
  int32_t pair, segment, begin, end;
};

// The same work for blocks that take two strips at once. No range is empty.
struct PairSchedule : Schedule {
  static_assert(kTileColumns == 2 * kStripRows, "the tiles of a symmetric pair end with its own");

  AWPF_HOST_DEVICE int64_t pairs() const { return ceil_div(rows, 2 * kStripRows); }

  // Pair k of a symmetric problem has k + 1 tiles. Pairs of level 1, 2, ... segments() have as many ranges each.
  AWPF_HOST_DEVICE int64_t ranges() const {
    if (!symmetric) return pairs() * segments();
    const int64_t whole = pairs() / tiles_each();
    return tiles_each() * (whole * (whole + 1) / 2) + pairs() % tiles_each() * (whole + 1);
  }

  // The longest pairs come first.
  AWPF_HOST_DEVICE PairRange range(int64_t index) const {
    const int64_t each = tiles_each();
    int64_t level = segments(), first = 0, count = pairs();  // pairs of a level
    if (symmetric) {
      for (first = (level - 1) * each, count -= first; index >= count * level; first -= each) {
        index -= count * level;
        --level;
        count = each;
      }
    }
    const int64_t pair = first + count - 1 - index / level, segment = index % level, begin = segment * each;
    const int64_t end = smaller(begin + each, symmetric ? pair + 1 : tiles());
    return {int32_t(pair), int32_t(segment), int32_t(begin), int32_t(end)};
  }
};

// Where the partial sums of all problems lie: those of a problem begin at row `strips before it + problem * row
// groups`.
struct PartialSums {
  int64_t row_groups, column_groups;

  AWPF_HOST_DEVICE int64_t width() const { return kSegments + column_groups; }
  AWPF_HOST_DEVICE int64_t index(int64_t first_strip, int64_t problem, int64_t strip, int64_t group, int64_t segment,
                                 int64_t column_group) const {
    return (first_strip + problem * row_groups + strip + group) * width() + segment + column_group;
  }
};

// An upper bound of the strips of all problems, if no row of z is in two groups.
AWPF_HOST_DEVICE inline int64_t max_strips(int64_t rows_of_z, int64_t problems) {
  return rows_of_z / kStripRows + problems;
}

}  // namespace awpf
