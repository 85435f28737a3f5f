// The null distribution of a two-sample statistic: block sums of one Gram matrix under many random splits of its rows.
//
// Let L be the strict lower triangle of the kernel matrix and s in {0, 1}^N the membership of a split in the first
// sample. The product V = L S for all splits at once gives q = s'Ls, u = 1'Ls and t = s'L1, and from these follow the
// block sums of every split.
// FLOPs: N^2 d for the triangle once, N^2 B for B splits. Memory: N B bytes of membership; L exists a block at a time.
// Split 0 is the given one, so that the statistic and its null distribution have the same rounding errors.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "common/allocate.h"
#include "common/ops.h"
#include "cpu/mmd/kernel_sum_call.h"
#include "cpu/parallel.h"
#include "cpu/shuffle_all.h"

namespace awpf {
namespace {

constexpr int64_t kSplitsAtOnce = 2048;

// Whether each row belongs to the first sample of each split, one byte each. The splits are cut into strips of
// `strip_splits`; the layout is [strip][row][split within the strip].
class Memberships {
 public:
  Memberships(int64_t rows, int64_t first_size, int64_t splits, int64_t strip_splits)
      : rows_(rows),
        first_size_(first_size),
        strip_splits_(strip_splits),
        splits_(splits),
        bytes_(rows * round_up(splits, strip_splits)) {}

  const uint8_t* at(int64_t strip, int64_t row) const { return bytes_.get() + (strip * rows_ + row) * strip_splits_; }
  int64_t strips() const { return ceil_div(splits_, strip_splits_); }

  // Split k is permutation number first_split + k of the rows; permutation 0 is the identity.
  void fill(uint64_t seed, int64_t first_split) {
    for_each_task(strips(), [&](int64_t strip, int64_t) {
      std::vector<uint32_t> every_row(rows_);
      std::iota(every_row.begin(), every_row.end(), 0u);
      for (int64_t k = 0; k < strip_splits_; ++k) {
        const int64_t split = strip * strip_splits_ + k;
        uint8_t* out = bytes_.get() + strip * rows_ * strip_splits_ + k;
        if (split >= splits_ || first_split + split == 0) {
          for (int64_t i = 0; i < rows_; ++i) out[i * strip_splits_] = split < splits_ && i < first_size_;
          continue;
        }
        const ShuffleKey key = shuffle_key(seed, uint64_t(first_split + split), uint64_t(rows_));
        for_each_shuffled(every_row, rows_, key,
                          [&](int64_t row, uint32_t to) { out[row * strip_splits_] = to < uint64_t(first_size_); });
      }
    });
  }

 private:
  int64_t rows_, first_size_, strip_splits_, splits_;
  Buffer<uint8_t> bytes_;
};

// Sums over the pairs of L: for each split, those within its first sample (q) and those with a row in it, counted once
// per such row (t + u); and over all pairs.
struct SplitSums {
  std::vector<double> within_first, touching_first;
  double total = 0;
};

// The product with the memberships is in double whatever T is: its sums run over all rows, and the two-sample statistic
// is a small difference of them.
template <class T>
SplitSums split_sums(const KernelSumCall& call, int64_t problem, const Memberships& members, int64_t splits) {
  const auto& wide = kernels<double>();
  const PooledRows& pooled = call.rows[problem];
  const DepthBlocks depth = depth_blocks<T>(call.points.dim);
  const PackedBatch<T> batch = pack_batch<T>(call, {problem}, depth);
  MixtureArrays<T> mixture(call.mixtures[problem]);
  std::fill(mixture.weight.begin(), mixture.weight.end(), T(1));

  const int64_t strips = members.strips(), padded_splits = strips * wide.tile_columns;
  const int64_t panels = ceil_div(pooled.size, block_rows<T>());
  const int64_t workers = workers_for(panels), area = block_rows<T>() * block_stride<T>();
  const int64_t operand_size = round_up(block_rows<T>(), wide.tile_rows) * block_columns<T>();
  const int64_t product_size = round_up(block_rows<T>(), wide.tile_rows) * padded_splits;
  const int64_t partial_size = 2 * padded_splits + 1;
  Buffer<double> partial(panels * partial_size);
  Buffer<T> values(workers * area);
  Buffer<double> lower(workers * operand_size), operand(workers * operand_size);
  Buffer<double> member(workers * block_columns<T>() * padded_splits), product(workers * product_size);

  for_each_task(panels, [&](int64_t task, int64_t worker, EarlyEnd& end_early) {
    const int64_t panel = panels - 1 - task;  // the longest first
    const int64_t begin = panel * block_rows<T>(), end = std::min(begin + block_rows<T>(), pooled.size);
    const int64_t height = end - begin;
    double* const v = product.get() + worker * product_size;
    double* const s = member.get() + worker * block_columns<T>() * padded_splits;
    double* const l = lower.get() + worker * operand_size;
    double* const a = operand.get() + worker * operand_size;
    std::vector<double> row_sums(height, 0.0);
    std::vector<LostPair> lost;
    for (int64_t j = 0; j < end; j += block_columns<T>()) {
      if (end_early.wanted()) return;
      const Block block{begin, end, j, std::min(j + block_columns<T>(), pooled.size)};
      const int64_t width = block.column_end - j;
      const GramBlock<T> gram = gram_block<T>(batch.rows[0], batch.rows[0], depth, block, begin - j,
                                              values.get() + worker * area, block_stride<T>(), lost);
      kernels<T>().rbf_values(gram, {0, height, 0, width}, mixture.view(), T(1), Keep::below_diagonal, row_sums.data());
      wide.scale_rows(l, width, gram.values, element_type<T>(), gram.stride, height, width, nullptr);
      wide.pack_rows_a(a, l, width, height, width);
      for (int64_t strip = 0; strip < strips; ++strip)
        wide.widen_bytes(s + strip * wide.tile_columns * width, members.at(strip, j), wide.tile_columns * width);
      wide.multiply(a, s, v, padded_splits, ceil_div(height, wide.tile_rows), strips, width, j > 0, kNoDiagonal);
    }
    double* within = partial.get() + panel * partial_size;
    double* touching = within + padded_splits;
    std::fill(within, within + partial_size, 0.0);
    for (int64_t i = 0; i < height; ++i)
      for (int64_t strip = 0; strip < strips; ++strip) {
        const uint8_t* in_first = members.at(strip, begin + i);
        const double* row = v + i * padded_splits + strip * wide.tile_columns;
        for (int64_t k = 0; k < wide.tile_columns; ++k) {
          within[strip * wide.tile_columns + k] += in_first[k] * row[k];
          touching[strip * wide.tile_columns + k] += row[k] + in_first[k] * row_sums[i];
        }
      }
    for (const double sum : row_sums) touching[padded_splits] += sum;
  });

  SplitSums sums{std::vector<double>(splits, 0.0), std::vector<double>(splits, 0.0)};
  for (int64_t panel = 0; panel < panels; ++panel) {
    const double* within = partial.get() + panel * partial_size;
    for (int64_t b = 0; b < splits; ++b) {
      sums.within_first[b] += within[b];
      sums.touching_first[b] += within[padded_splits + b];
    }
    sums.total += within[2 * padded_splits];
  }
  return sums;
}

}  // namespace

Tensor rbf_permutation_sums(Tensor z, Tensor rows, Tensor gamma, int64_t permutations, int64_t seed, bool) {
  AWPF_CHECK(rows.dim() == 3 && rows.size(1) == 2, "rows must hold two groups a problem");
  AWPF_CHECK(permutations >= 0 && permutations < INT64_MAX, "permutations must be from 0 to 2^63 - 2, got ",
             permutations);
  const KernelSumCall call = read_call(z, rows, std::nullopt, gamma, std::nullopt);
  const int64_t splits = permutations + 1;
  Tensor sums = allocate_zeros(gamma, {call.problems(), splits, 3}, ScalarType::Double);
  double* out = sums.mutable_data_ptr<double>();
  for (int64_t p = 0; p < call.problems(); ++p) {
    const PooledRows& pooled = call.rows[p];
    const double count = call.mixtures[p].count();
    const double n = double(pooled.groups[0].length), m = double(pooled.groups[1].length);
    for (int64_t first = 0; first < splits; first += kSplitsAtOnce) {
      const int64_t at_once = std::min(kSplitsAtOnce, splits - first);
      Memberships members(pooled.size, pooled.groups[0].length, at_once, kernels<double>().tile_columns);
      members.fill(uint64_t(seed), first);
      const SplitSums found = call.precisions[p] == SumPrecision::fp32 ? split_sums<float>(call, p, members, at_once)
                                                                       : split_sums<double>(call, p, members, at_once);
      for (int64_t b = 0; b < at_once; ++b, out += 3) {
        const double within = found.within_first[b] / count, touching = found.touching_first[b] / count;
        out[0] = 2 * within + n;
        out[1] = touching - 2 * within;
        out[2] = 2 * (found.total / count - touching + within) + m;
      }
    }
  }
  return sums;
}

}  // namespace awpf
