// Packed points in the order in which bulk copies and the products of warpgroups read them.
//
// A panel is 128 rows of one problem, divided along the depth into slabs of 128 bytes per row: 64 fp16 values or, if
// values are split in two, 32 high halves followed by 32 low ones. A slab of a panel is contiguous, with its 16-byte
// chunks already where 128-byte swizzling puts them in shared memory. So one bulk copy fetches it, and no tensor map
// has to be encoded by the driver.
#pragma once

#include "cuda/mmd/scaling.h"
#include "cuda/mmd/schedule.h"

namespace awpf {

constexpr int kPanelRows = 128;
constexpr int kPanelRowBytes = 128;
constexpr int kPanelBytes = kPanelRows * kPanelRowBytes;  // bytes of one slab of a panel
static_assert(kPanelRows == 2 * kStripRows && kPanelRows == kTileColumns,
              "a panel is a pair of strips, or the columns of a tile");

// 128-byte swizzling: chunk c of row r lies at chunk c xor r % 8.
AWPF_HOST_DEVICE constexpr int swizzled(int row, int byte_of_row) { return byte_of_row ^ row % 8 * 16; }

struct Panels {
  int64_t slabs;  // that a panel has room for

  AWPF_HOST_DEVICE explicit Panels(int dim) : slabs(ceil_div(dim, 32)) {}

  AWPF_HOST_DEVICE static constexpr int depth(Precision precision) {
    return precision == Precision::fp16_split ? 32 : 64;
  }
  AWPF_HOST_DEVICE static int slabs_of(Precision precision, int dim) { return int(ceil_div(dim, depth(precision))); }

  // The first panel of a problem, given the strips of all problems before it. It leaves each problem enough room
  // without a table of its own.
  AWPF_HOST_DEVICE static int64_t first(int64_t strips_before, int64_t problem) {
    return (strips_before + problem + 1) / 2;
  }
  AWPF_HOST_DEVICE static int64_t max_panels(int64_t rows_of_z, int64_t problems) {
    return first(max_strips(rows_of_z, problems), problems);
  }
  AWPF_HOST_DEVICE int64_t bytes(int64_t panels) const { return panels * slabs * kPanelBytes; }

  // The byte offset of a slab, and within a slab that of the high half of a value. Before swizzling, the low half lies
  // 64 bytes behind it.
  AWPF_HOST_DEVICE int64_t slab(int64_t panel, int index) const { return (panel * slabs + index) * kPanelBytes; }
  AWPF_HOST_DEVICE static int offset(int row, int byte_of_row) {
    return row * kPanelRowBytes + swizzled(row, byte_of_row);
  }
};

}  // namespace awpf
