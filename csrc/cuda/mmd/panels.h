// Packed points in the order in which bulk copies and the products of warpgroups take them.
//
// A panel is 128 rows of one problem, cut along the depth into slabs of 128 bytes a row: 64 halves or, where a value
// has two, 32 high and then 32 low ones. A slab of a panel is one contiguous copy, its 16-byte pieces already where
// 128-byte swizzling has them in shared memory: no map of the tensor, no call of the driver.
#pragma once

#include "cuda/mmd/scaling.h"
#include "cuda/mmd/schedule.h"

namespace awpf {

constexpr int kPanelRows = 128;
constexpr int kPanelRowBytes = 128;
constexpr int kPanelBytes = kPanelRows * kPanelRowBytes;  // of one slab
static_assert(kPanelRows == 2 * kStripRows && kPanelRows == kTileColumns, "a pair of strips, or a tile's columns");

// Pieces of row r lie at their place exclusive-or r % 8.
AWPF_HOST_DEVICE constexpr int swizzled(int row, int byte_of_row) { return byte_of_row ^ row % 8 * 16; }

struct Panels {
  int64_t slabs;  // a panel has room for

  AWPF_HOST_DEVICE explicit Panels(int dim) : slabs(pieces(dim, 32)) {}

  AWPF_HOST_DEVICE static constexpr int depth(Precision precision) {
    return precision == Precision::fp16_split ? 32 : 64;
  }
  AWPF_HOST_DEVICE static int slabs_of(Precision precision, int dim) { return int(pieces(dim, depth(precision))); }

  // A problem's first, given the strips of all before it: leaves room for each, without a table.
  AWPF_HOST_DEVICE static int64_t first(int64_t strips_before, int64_t problem) {
    return (strips_before + problem + 1) / 2;
  }
  AWPF_HOST_DEVICE static int64_t max_panels(int64_t rows_of_z, int64_t problems) {
    return first(max_strips(rows_of_z, problems), problems);
  }
  AWPF_HOST_DEVICE int64_t bytes(int64_t panels) const { return panels * slabs * kPanelBytes; }

  // Where a panel's slab begins, and in it the high half of a value; the low half lies 64 bytes from it, but for the
  // swizzling.
  AWPF_HOST_DEVICE int64_t slab(int64_t panel, int index) const { return (panel * slabs + index) * kPanelBytes; }
  AWPF_HOST_DEVICE static int offset(int row, int byte_of_row) {
    return row * kPanelRowBytes + swizzled(row, byte_of_row);
  }
};

}  // namespace awpf
