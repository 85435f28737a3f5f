// The rule for median bandwidths: the median of the squared distances of some pairs of pooled points
// (common/median_pairs.h). Of an even number of distances it is the lower of the two middle ones.
//
// Distances are sums of squared differences in double for every input type, so that all types and devices agree, equal
// points have distance zero, and points far from each other lose nothing. FLOPs: 3 d for each of about a thousand
// pairs.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "common/median_pairs.h"
#include "common/ops.h"
#include "cpu/mmd/centering.h"
#include "cpu/parallel.h"
#include "cpu/shuffle_all.h"
#include "cpu/tiling.h"

namespace awpf {
namespace {

constexpr int64_t kPairsAtOnce = int64_t(8) << 20;
constexpr int64_t kPlacesPerItem = 32;

// The rows of z of one problem in their order around the circle.
std::vector<int64_t> rows_around(const PooledRows& pooled, const MedianPairs& pairs) {
  std::vector<uint32_t> position(pairs.rows);
  std::iota(position.begin(), position.end(), 0u);
  const auto shuffle = [&](int64_t among) {
    const ShuffleKey key = shuffle_key(pairs.seed, 0, uint64_t(among));
    for_each_shuffled(std::vector<uint32_t>(position), among, key,
                      [&](int64_t k, uint32_t value) { position[k] = value; });
  };
  if (pairs.is_shuffled()) shuffle(pairs.rows);
  if (pairs.is_sampled()) shuffle(pairs.pool);
  std::vector<int64_t> rows(pairs.rows);
  for (int64_t place = 0; place < pairs.rows; ++place) {
    const Group& group = pooled.groups[pooled.group_at(position[place])];
    rows[place] = group.first_row + position[place] - group.begin;
  }
  return rows;
}

struct Problem {
  MedianPairs pairs;
  int64_t first_distance;  // where its distances are stored
  std::vector<int64_t> rows;
};

struct WorkItem {
  std::size_t member;
  int64_t begin, end;  // places around the circle
};

// Rows of a power of two numbers would all compete for the same lines of the cache.
int64_t copy_stride(int64_t dim) { return round_up(dim, 8) + 8; }

// The distances from the rows at some places to their partners. `copies` has room for the rows of both.
void find_distances(const Points& points, const Problem& problem, const WorkItem& task, double* distances,
                    double* copies) {
  const MedianPairs& pairs = problem.pairs;
  const int64_t dim = points.dim, stride = copy_stride(dim);
  for (int64_t place = task.begin; place < task.end + pairs.partners; ++place)
    kernels<double>().scale_rows(copies + (place - task.begin) * stride, stride,
                                 points.row(problem.rows[place % pairs.rows]), points.type, dim, 1, dim, nullptr);
  for (int64_t place = task.begin; place < task.end; ++place) {
    const double* row = copies + (place - task.begin) * stride;
    kernel_table().squared_distances(distances + problem.first_distance + pairs.first_pair(place), row, row + stride,
                                     stride, pairs.partners_of(place), dim);
  }
}

// The medians of the problems of a batch.
void find_medians(const Points& points, const PooledRows* pooled, const MedianPairs* pairs, int64_t count,
                  double* medians) {
  std::vector<Problem> problems(count);
  std::vector<WorkItem> tasks;
  int64_t total = 0, most_partners = 0;
  for (int64_t k = 0; k < count; ++k) {
    problems[k] = {pairs[k], total, {}};
    total += pairs[k].count();
    most_partners = std::max(most_partners, pairs[k].partners);
    for (int64_t i = 0; i < pairs[k].rows; i += kPlacesPerItem)
      tasks.push_back({std::size_t(k), i, std::min(i + kPlacesPerItem, pairs[k].rows)});
  }
  Buffer<double> distances(total);
  for_each_task(count, [&](int64_t k, int64_t) { problems[k].rows = rows_around(pooled[k], pairs[k]); });
  const int64_t room = (kPlacesPerItem + most_partners) * copy_stride(points.dim);
  Buffer<double> copies(workers_for(int64_t(tasks.size())) * room);
  for_each_task(int64_t(tasks.size()), [&](int64_t t, int64_t worker) {
    find_distances(points, problems[tasks[t].member], tasks[t], distances.get(), copies.get() + worker * room);
  });
  for_each_task(count, [&](int64_t k, int64_t) {
    double* const begin = distances.get() + problems[k].first_distance;
    double* const end = begin + pairs[k].count();
    double* const middle = begin + (pairs[k].count() - 1) / 2;
    const bool finite = std::all_of(begin, end, [](double square) { return std::isfinite(square); });
    if (finite) std::nth_element(begin, middle, end);
    medians[k] = finite ? *middle : HUGE_VAL;
  });
}

}  // namespace

Tensor median_square_distance(Tensor z, Tensor rows, int64_t max_rows, int64_t seed) {
  const Points points = as_points(z);
  AWPF_CHECK(points.dim >= 1, "z must have at least one feature");
  const std::vector<PooledRows> problems = read_pooled_rows(rows, points, "rows");
  AWPF_CHECK(max_rows >= 2, "max_rows must be at least 2");
  std::vector<MedianPairs> pairs;
  for (const PooledRows& pooled : problems) {
    AWPF_CHECK(pooled.size >= 2, "bandwidth=\"median\" needs at least two points");
    pairs.push_back(MedianPairs::of(pooled.size, max_rows, uint64_t(seed)));
  }
  const int64_t count = int64_t(problems.size());
  Tensor result = torch::stable::new_empty(z, {count}, ScalarType::Double);
  double* medians = result.mutable_data_ptr<double>();
  for (int64_t first = 0; first < count;) {
    int64_t last = first, at_once = 0;
    while (last < count && (last == first || at_once + pairs[last].count() <= kPairsAtOnce))
      at_once += pairs[last++].count();
    find_medians(points, problems.data() + first, pairs.data() + first, last - first, medians + first);
    first = last;
  }
  for (int64_t k = 0; k < count; ++k) {
    if (!std::isfinite(medians[k])) report_row(points, problems[k]);
    AWPF_CHECK(medians[k] > 0, "bandwidth=\"median\": the median distance is zero, because at least half of the pairs ",
               "of points are equal, or so close that their squares vanish; give a bandwidth instead");
  }
  return result;
}

}  // namespace awpf

// The positions that the median considers in a pool of more than `count` rows, in the order of their numbers; for pools
// that are spread over several processes.
extern "C" __attribute__((visibility("default"))) void awpf_sampled_rows(int64_t seed, int64_t rows, int64_t count,
                                                                         int64_t* positions) {
  const awpf::ShuffleKey key = awpf::shuffle_key(uint64_t(seed), 0, uint64_t(rows));
  for (int64_t k = 0; k < count; ++k) positions[k] = awpf::shuffled(uint32_t(k), uint32_t(rows), key);
}
