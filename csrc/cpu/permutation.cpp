// The null distribution of a two-sample statistic: block sums of one Gram matrix under many random splits of its rows.
//
// With L the strict lower triangle of the kernel matrix and s in {0, 1}^N the membership of a split, everything follows
// from V = L S for all splits at once: q = s'Ls, u = 1'Ls and t = s'L1.
// FLOPs: N^2 d for the triangle once, N^2 B for B splits. Memory: N B bytes of membership; L exists a block at a time.
// Split 0 is the given one, so that the statistic and its null share every rounding.
#include <algorithm>
#include <cmath>

#include "../common/ops.h"
#include "request.h"

namespace awpf {
namespace {

constexpr int64_t kSplitsAtOnce = 2048;

// Membership bytes in strips of `strip` splits: [strip][place][split within the strip].
class Memberships {
 public:
  Memberships(int64_t places, int64_t first_group, int64_t splits, int64_t strip)
      : places_(places),
        first_(first_group),
        strip_(strip),
        splits_(splits),
        bytes_(places * round_up(splits, strip)) {}

  const uint8_t* at(int64_t strip, int64_t place) const { return bytes_.get() + (strip * places_ + place) * strip_; }
  int64_t strips() const { return ceil_div(splits_, strip_); }

  // Split number `first_split` + k is permutation number first_split + k; number 0 is the identity.
  void fill(uint64_t seed, int64_t first_split) {
    for_each_task(strips(), [&](int64_t s, int64_t) {
      std::vector<uint32_t> value(places_), place(places_);
      for (int64_t c = 0; c < strip_; ++c) {
        const int64_t split = s * strip_ + c;
        uint8_t* out = bytes_.get() + s * places_ * strip_ + c;
        if (split >= splits_ || first_split + split == 0) {
          for (int64_t i = 0; i < places_; ++i) out[i * strip_] = split < splits_ && i < first_;
          continue;
        }
        const ShuffleKey key = shuffle_key(seed, uint64_t(first_split + split), uint64_t(places_));
        int64_t pending = places_;
        for (int64_t i = 0; i < places_; ++i) value[i] = place[i] = uint32_t(i);
        // Values outside the range go through again, all of them in one vectorised pass.
        while (pending > 0) {
          hot_loops().shuffle_once(value.data(), pending, key);
          int64_t left = 0;
          for (int64_t k = 0; k < pending; ++k) {
            if (value[k] < uint64_t(places_)) {
              out[int64_t(place[k]) * strip_] = value[k] < uint64_t(first_);
            } else {
              value[left] = value[k];
              place[left++] = place[k];
            }
          }
          pending = left;
        }
      }
    });
  }

 private:
  int64_t places_, first_, strip_, splits_;
  Buffer<uint8_t> bytes_;
};

struct SplitSums {
  std::vector<double> within_first, touching_first;  // q; t + u
  double total = 0;
};

// The product with the memberships is in double whatever T is: its sums run over all rows, and the two-sample statistic
// is a small difference of them.
template <class T>
SplitSums split_sums(const Request& request, int64_t problem, const Memberships& members, int64_t splits) {
  const auto& loops = hot<T>();
  const auto& wide = hot<double>();
  const Pool& pool = request.rows[problem];
  const Depth depth(request.points.dim);
  const Wave<T> wave = pack_wave<T>(request, {problem}, depth);
  MixtureArrays<T> mixture(request.mixtures[problem]);
  std::fill(mixture.weight.begin(), mixture.weight.end(), T(1));

  const int64_t strips = members.strips(), padded_splits = strips * wide.columns;
  const int64_t panels = ceil_div(pool.size, block_rows<T>());
  const int64_t workers = workers_for(panels), area = block_rows<T>() * block_stride<T>();
  const int64_t operand_size = round_up(block_rows<T>(), wide.rows) * block_columns<T>();
  const int64_t product_size = round_up(block_rows<T>(), wide.rows) * padded_splits;
  Buffer<double> partial(panels * (2 * padded_splits + 1));
  Buffer<T> values(workers * area);
  Buffer<double> lower(workers * operand_size), operand(workers * operand_size);
  Buffer<double> member(workers * block_columns<T>() * padded_splits), product(workers * product_size);

  for_each_task(panels, [&](int64_t task, int64_t worker) {
    const int64_t panel = panels - 1 - task;  // the longest first
    const int64_t begin = panel * block_rows<T>(), end = std::min(begin + block_rows<T>(), pool.size);
    const int64_t height = end - begin;
    double* const v = product.get() + worker * product_size;
    double* const s = member.get() + worker * block_columns<T>() * padded_splits;
    double* const l = lower.get() + worker * operand_size;
    double* const a = operand.get() + worker * operand_size;
    std::vector<double> row_sums(height, 0.0);
    for (int64_t j = 0; j < end; j += block_columns<T>()) {
      const Block block{begin, end, j, std::min(j + block_columns<T>(), pool.size)};
      const int64_t width = block.column_end - j;
      const GramBlock<T> gram = gram_block<T>(wave.rows[0], wave.rows[0], depth, block, begin - j,
                                              values.get() + worker * area, block_stride<T>());
      loops.rbf_values(gram, {0, height, 0, width}, mixture.view(), T(1), Keep::below_diagonal, row_sums.data());
      wide.scale_rows(l, width, gram.values, element_of<T>(), gram.stride, height, width, nullptr);
      wide.pack_rows_a(a, l, width, height, width);
      for (int64_t strip = 0; strip < strips; ++strip)
        wide.widen_bytes(s + strip * wide.columns * width, members.at(strip, j), wide.columns * width);
      wide.multiply(a, s, v, padded_splits, ceil_div(height, wide.rows), strips, width, j > 0, kNoDiagonal);
    }
    double* within = partial.get() + panel * (2 * padded_splits + 1);
    double* touching = within + padded_splits;
    std::fill(within, within + 2 * padded_splits + 1, 0.0);
    for (int64_t i = 0; i < height; ++i)
      for (int64_t strip = 0; strip < strips; ++strip) {
        const uint8_t* in_first = members.at(strip, begin + i);
        const double* row = v + i * padded_splits + strip * wide.columns;
        for (int64_t c = 0; c < wide.columns; ++c) {
          within[strip * wide.columns + c] += in_first[c] * row[c];
          touching[strip * wide.columns + c] += row[c] + in_first[c] * row_sums[i];
        }
      }
    for (const double sum : row_sums) touching[padded_splits] += sum;
  });

  SplitSums sums{std::vector<double>(splits, 0.0), std::vector<double>(splits, 0.0)};
  for (int64_t panel = 0; panel < panels; ++panel) {
    const double* within = partial.get() + panel * (2 * padded_splits + 1);
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
  AWPF_CHECK(permutations >= 0, "permutations must not be negative");
  const Request request = read_request(z, rows, std::nullopt, gamma, std::nullopt);
  const int64_t splits = permutations + 1;
  Tensor sums = torch::stable::new_zeros(gamma, {request.problems(), splits, 3}, ScalarType::Double);
  double* out = sums.mutable_data_ptr<double>();
  for (int64_t p = 0; p < request.problems(); ++p) {
    const Pool& pool = request.rows[p];
    AWPF_CHECK(pool.size < int64_t(1) << 31, "at most 2^31 - 1 pooled rows");
    const double kernels = request.mixtures[p].count();
    const double n = double(pool.groups[0].length), m = double(pool.groups[1].length);
    for (int64_t first = 0; first < splits; first += kSplitsAtOnce) {
      const int64_t count = std::min(kSplitsAtOnce, splits - first);
      Memberships members(pool.size, pool.groups[0].length, count, hot<double>().columns);
      members.fill(uint64_t(seed), first);
      const SplitSums found = in_double(request, p) ? split_sums<double>(request, p, members, count)
                                                    : split_sums<float>(request, p, members, count);
      for (int64_t b = 0; b < count; ++b, out += 3) {
        const double within = found.within_first[b] / kernels, touching = found.touching_first[b] / kernels;
        out[0] = 2 * within + n;
        out[1] = touching - 2 * within;
        out[2] = 2 * (found.total / kernels - touching + within) + m;
      }
    }
  }
  return sums;
}

}  // namespace awpf
