// How the pairs of one MMD problem are cut into work, and where the partial sums of each piece go.
//
// The pooled rows are cut into strips, the columns into tiles, and the tiles of a strip into at most kSegments
// segments. A block takes one strip and one segment and writes, for each group of rows and each group of columns it
// meets, one sum. Along a strip both the segment and the group of columns can only grow, so that (segment + group)
// names the sum; likewise (strip + group of rows). Everything follows from the sizes of the problem alone: the order of
// additions depends neither on the device nor on the other problems.
#pragma once

#include "common/precision.h"

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
struct TileRange {
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
  AWPF_HOST_DEVICE TileRange range(int64_t item) const {
    return range_of(strips() - 1 - item / segments(), item % segments());
  }
  AWPF_HOST_DEVICE TileRange range_of(int64_t strip, int64_t segment) const {
    const int64_t begin = segment * tiles_each();
    return {int32_t(strip), int32_t(segment), int32_t(begin), int32_t(smaller(begin + tiles_each(), tiles_of(strip)))};
  }
};

// Tiles [begin, end) for two neighbouring strips, 2 pair and 2 pair + 1, which want the same ones.
struct PairRange {
  int32_t pair, segment, begin, end;
};

// The same work for blocks that take two strips at once; every run holds a tile.
struct PairSchedule : Schedule {
  static_assert(kTileColumns == 2 * kStripRows, "the tiles of a symmetric pair end with its own");

  AWPF_HOST_DEVICE int64_t pairs() const { return pieces(rows, 2 * kStripRows); }

  // Pair k of a symmetric problem has k + 1 tiles, in as many runs as other pairs of its level, 1, 2, ... segments().
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

// The sums of all problems: those of a problem begin at row `strips before it + problem * row groups`.
struct PartialSums {
  int64_t row_groups, column_groups;

  AWPF_HOST_DEVICE int64_t width() const { return kSegments + column_groups; }
  AWPF_HOST_DEVICE int64_t index(int64_t first_strip, int64_t problem, int64_t strip, int64_t group, int64_t segment,
                                 int64_t column_group) const {
    return (first_strip + problem * row_groups + strip + group) * width() + segment + column_group;
  }
};

// Strips of all problems, if no row of z is in two groups.
AWPF_HOST_DEVICE inline int64_t max_strips(int64_t rows_of_z, int64_t problems) {
  return rows_of_z / kStripRows + problems;
}

}  // namespace awpf
