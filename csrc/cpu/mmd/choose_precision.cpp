#include "cpu/mmd/choose_precision.h"

#include <array>
#include <cmath>

#include "common/precision_sample.h"
#include "cpu/mmd/packed_rows.h"
#include "cpu/parallel.h"

namespace awpf {
namespace {

// The row of z at a position of the pool, which counts the rows and then the columns.
int64_t row_at(const PooledRows& rows, const PooledRows* columns, int64_t position) {
  const bool behind = position >= rows.size;
  const PooledRows& side = behind ? *columns : rows;
  const int64_t within = behind ? position - rows.size : position;
  const Group& group = side.groups[side.group_at(within)];
  return group.first_row + within - group.begin;
}

// A few pairs of centred rows, and how the errors of their products compare with what is expected of them.
class GroupPairs {
 public:
  GroupPairs(const Points& points, const KernelMixture& mixture, const Centering& centering, const ProductChain& chain)
      : points_(points), mixture_(mixture), centering_(centering), chain_(chain), rows_(2 * points.dim) {}

  void add(PairSums& sums, int64_t first, int64_t second) {
    const int64_t dim = points_.dim;
    double half_norm[2];
    for (int side = 0; side < 2; ++side)
      kernels<float>().centre_rows(rows_.get() + side * dim, dim, points_.row(side == 0 ? first : second), points_.type,
                                   dim, 1, dim, centering_.centre.data(), 1.0, half_norm + side);
    const float *a = rows_.get(), *b = a + dim;
    const int64_t length = int64_t(chain_.length);
    double product = 0, rounded = 0;
    for (int64_t k = 0; k < dim; k += length) {
      float sum = 0;
      for (int64_t i = k; i < std::min(k + length, dim); ++i) {
        sum += a[i] * b[i];
        product += double(a[i]) * double(b[i]);
      }
      rounded += double(sum);
    }
    SampledPair pair{product, 2 * half_norm[0], 2 * half_norm[1], 0, 0};
    const double distance = std::max(0.0, pair.square + pair.other_square - 2 * product);
    for (const KernelStep& step : mixture_.steps) {
      const double gamma = mixture_.widest_gamma * step.rate, value = std::exp(-gamma * distance);
      pair.value += value / mixture_.count();
      pair.slope += 2 * gamma * value / mixture_.count();
    }
    sums.add(pair, chain_);
    found_ += (rounded - product) * (rounded - product);
    expected_ += kRounding * kRounding * chain_.error(pair);
  }

  // Whether errors are larger than those of independent roundings, as where all features of a row are the same number.
  bool round_alike() const { return found_ > 8 * expected_; }

 private:
  const Points& points_;
  const KernelMixture& mixture_;
  const Centering& centering_;
  const ProductChain& chain_;
  Buffer<float> rows_;
  double found_ = 0, expected_ = 0;
};

// Whether pairs within the groups speak against products in single precision.
bool groups_need_double(const PooledRows& rows, const PooledRows* columns, GroupPairs& pairs) {
  const int64_t row_groups = int64_t(rows.groups.size());
  const int64_t groups = row_groups + (columns != nullptr ? int64_t(columns->groups.size()) : 0);
  const int64_t looked_at = std::min<int64_t>(groups, kMostSampledGroups);
  for (int64_t k = 0; k < looked_at; ++k) {
    const int64_t g = k * groups / looked_at;
    const Group& group = g < row_groups ? rows.groups[g] : columns->groups[g - row_groups];
    if (group.length < 2) continue;
    PairSums within;
    for (int number = 0; number < pairs_in_group(groups); ++number) {
      const RowPair pair = sampled_pair(g, number, group.length);
      pairs.add(within, group.first_row + pair.first, group.first_row + pair.second);
    }
    if (!group_may_be_in_float(within, group.length)) return true;
  }
  return pairs.round_alike();
}

// Counts the pairs of numbers that lie in the same cell of a grid.
class CellCounter {
 public:
  explicit CellCounter(double cell) : per_cell_(1 / cell) { slots_.fill({0, 0}); }

  void add(double value) {
    const double cell = std::floor(std::fmin(std::fmax(value * per_cell_, -9e18), 9e18));
    const int64_t number = int64_t(cell);
    uint64_t slot = splitmix64(uint64_t(number)) % slots_.size();
    while (slots_[slot].count > 0 && slots_[slot].number != number) slot = (slot + 1) % slots_.size();
    pairs_ += slots_[slot].count;
    slots_[slot] = {number, slots_[slot].count + 1};
  }
  double pairs() const { return double(pairs_); }

 private:
  struct Slot {
    int64_t number, count;
  };
  double per_cell_;
  int64_t pairs_ = 0;
  std::array<Slot, 1024> slots_;  // twice as many as there are pairs
};

// The sum of 1 / length of the two smallest groups; of a single group, that of its own twice.
double smallest_groups(const PooledRows& pooled) {
  int64_t smallest = INT64_MAX, second = INT64_MAX;
  for (const Group& group : pooled.groups)
    if (group.length > 0) {
      second = std::min(second, std::max(smallest, group.length));
      smallest = std::min(smallest, group.length);
    }
  return 1.0 / double(smallest) + 1.0 / double(second < INT64_MAX ? second : smallest);
}

SumPrecision choose(const Points& points, const PooledRows& rows, const PooledRows* columns,
                    const KernelMixture& mixture, const Centering& centering) {
  const int64_t pool = rows.size + (columns != nullptr ? columns->size : 0);
  const double narrowest_gamma = mixture.widest_gamma * mixture.steps.back().rate;
  if (!may_be_in_float(pool, centering.mean_square, narrowest_gamma)) return SumPrecision::fp64;
  const DepthBlocks depth = depth_blocks<float>(points.dim);
  const ProductChain chain{double(points.dim), double(std::min(points.dim, depth.block))};
  GroupPairs pairs(points, mixture, centering, chain);
  if (groups_need_double(rows, columns, pairs)) return SumPrecision::fp64;

  // The sample as a pool of its own, each of its rows a group.
  PooledRows sample;
  const ShuffleKey key = sample_key(uint64_t(pool));
  for (int64_t k = 0; k < kSampledRows; ++k)
    sample.groups.push_back({row_at(rows, columns, sampled_position(int(k), uint32_t(pool), key)), k, 1});
  sample.size = kSampledRows;

  PackedRows<float> packed;
  packed.allocate({points, &sample, mixture.scale(), mixture.lost_distances(points.dim)}, depth);
  Buffer<float> scratch(kSampledRows * points.dim);
  packed.pack(centering, 0, kSampledRows, scratch.get());
  const int64_t height = round_up(kSampledRows, kernels<float>().tile_rows);
  const int64_t stride = round_up(kSampledRows, kernels<float>().tile_columns);
  Buffer<float> products(height * stride), values(height * stride), slopes(height * stride);
  std::vector<LostPair> lost;  // none in single precision
  const GramBlock<float> gram =
      gram_block<float>(packed, packed, depth, {0, kSampledRows, 0, kSampledRows}, 0, products.get(), stride, lost);
  const Cell cell{0, kSampledRows, 0, kSampledRows};
  std::vector<double> row_sums(kSampledRows, 0.0);
  MixtureArrays<float> arrays(mixture);
  const auto evaluate = [&](Buffer<float>& to) {
    std::copy(products.get(), products.get() + kSampledRows * stride, to.get());
    GramBlock<float> block = gram;
    block.values = to.get();
    kernels<float>().rbf_values(block, cell, arrays.view(), 1.0f, Keep::below_diagonal, row_sums.data());
  };
  evaluate(slopes);
  std::fill(arrays.weight.begin(), arrays.weight.end(), 1.0f / float(mixture.count()));
  evaluate(values);

  const double unscale = 1 / (mixture.scale() * mixture.scale());
  PrecisionEvidence seen{chain, mixture.mean_gamma, centering.mean_square, 0, {}, 0, 0, 0};
  seen.smallest_groups = smallest_groups(rows);
  if (columns != nullptr) seen.smallest_groups = std::max(seen.smallest_groups, smallest_groups(*columns));
  CellCounter equal_values(equal_value_cell() / mixture.widest_gamma);
  CellCounter equal_products(equal_product_cell(centering.mean_square));
  for (int64_t i = 0; i < kSampledRows; ++i) {
    const double square = 2 * unscale * (double(gram.row_norm[i]) + double(gram.row_norm_rest[i]));
    seen.sampled_mean_square += square / kSampledRows;
    for (int64_t j = 0; j < i; ++j) {
      const double other = 2 * unscale * (double(gram.row_norm[j]) + double(gram.row_norm_rest[j]));
      const int64_t at = i * stride + j;
      const double product = unscale * double(products[at]);
      const double slope = 2 * mixture.mean_gamma * double(slopes[at]);
      seen.all.add({product, square, other, double(values[at]), slope}, chain);
      equal_values.add(square + other - 2 * product);
      equal_products.add(product);
    }
  }
  seen.equal_values = equal_values.pairs();
  seen.equal_products = equal_products.pairs();
  return needed_precision(seen);
}

}  // namespace

std::vector<SumPrecision> choose_precisions(const Points& points, const std::vector<PooledRows>& rows,
                                            const std::vector<PooledRows>& columns,
                                            const std::vector<KernelMixture>& mixtures,
                                            const std::vector<Centering>& centerings) {
  std::vector<SumPrecision> precisions(rows.size(), SumPrecision::fp64);
  if (points.type == ElementType::f64) return precisions;
  for_each_task(int64_t(rows.size()), [&](int64_t p, int64_t) {
    precisions[p] = choose(points, rows[p], columns.empty() ? nullptr : &columns[p], mixtures[p], centerings[p]);
  });
  return precisions;
}

}  // namespace awpf
