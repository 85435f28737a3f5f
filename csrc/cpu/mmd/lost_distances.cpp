#include "cpu/mmd/lost_distances.h"

#include <algorithm>

#include "common/checks.h"
#include "cpu/buffer.h"

namespace awpf {
namespace {

// In place of the norms of a block whose inner products have become exponents.
constexpr int64_t kMostNorms = 1024;
alignas(64) constexpr double kNoNorms[kMostNorms] = {};

// The columns of a row that count: [0, end).
int64_t counted(int64_t row, int64_t width, int64_t diagonal) {
  return diagonal == kNoDiagonal ? width : std::clamp<int64_t>(diagonal + row, 0, width);
}

}  // namespace

void restore_distances(const OriginalRows& rows, const OriginalRows& columns, int64_t first_row, int64_t height,
                       int64_t first_column, int64_t width, int64_t diagonal, GramBlock<double>& block,
                       std::vector<LostPair>& lost) {
  lost.clear();
  const double longest_row = *std::max_element(block.row_norm, block.row_norm + height);
  const double longest_column = *std::max_element(block.column_norm, block.column_norm + width);
  if (longest_row + longest_column <= rows.lost.limit) return;
  // A lone outlier leaves one row or one column to look at.
  int64_t begin = 0, end = width;
  while (begin < end && longest_row + block.column_norm[begin] <= rows.lost.limit) ++begin;
  while (begin < end && longest_row + block.column_norm[end - 1] <= rows.lost.limit) --end;
  std::vector<int32_t> found(width);
  for (int64_t i = 0; i < height; ++i) {
    if (block.row_norm[i] + longest_column <= rows.lost.limit) continue;
    const int64_t last = std::min(end, counted(i, width, diagonal));
    const int64_t count = kernel_table().lost_columns(block, i, begin, last, rows.lost, found.data());
    for (int64_t k = 0; k < count; ++k) lost.push_back({int32_t(i), found[k]});
  }
  if (lost.empty()) return;

  for (int64_t i = 0; i < height; ++i) {
    double* const row = block.values + i * block.stride;
    const int64_t last = counted(i, width, diagonal);
    for (int64_t j = 0; j < last; ++j) row[j] = std::min((row[j] - block.row_norm[i]) - block.column_norm[j], 0.0);
  }
  for (const LostPair& pair : lost)
    block.values[pair.row * block.stride + pair.column] =
        -0.5 * kernel_table().square_difference(rows.at(first_row + pair.row), columns.at(first_column + pair.column),
                                                rows.points.type, rows.scale, rows.points.dim);
  AWPF_CHECK(std::max(height, width) + kAlignment <= kMostNorms, "a block is larger than expected");
  block.row_norm = block.row_norm_rest = block.column_norm = block.column_norm_rest = kNoNorms;
}

}  // namespace awpf
