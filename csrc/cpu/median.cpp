// The median of the squared distances between all pairs of a pool, or of a seeded subsample of it: always in double, so
// that one rule holds for every input type and device. The lower of the two middle values where the count is even.
#include <algorithm>

#include "../common/ops.h"
#include "pooled.h"

namespace awpf {
namespace {

constexpr int64_t kWavePairs = int64_t(8) << 20;

// At most `max_rows` places of the pool, chosen by the shuffle of `seed`, as a pool of their own.
Pool subsample(const Pool& pool, int64_t max_rows, uint64_t seed) {
  if (pool.size <= max_rows) return pool;
  const ShuffleKey key = shuffle_key(seed, 0, uint64_t(pool.size));
  Pool chosen;
  for (int64_t k = 0; k < max_rows; ++k) {
    const int64_t place = shuffled(uint32_t(k), uint32_t(pool.size), key);
    const Group& group = pool.groups[pool.group_at(place)];
    chosen.groups.push_back({group.begin + place - group.start, k, 1});
  }
  chosen.size = max_rows;
  return chosen;
}

int64_t pairs_of(const Pool& pool) { return pool.size * (pool.size - 1) / 2; }

struct Task {
  std::size_t index;
  int64_t begin, end;
};

// All squared distances below the diagonal, row by row: those of row i start at i (i - 1) / 2.
void all_distances(const Points& points, const std::vector<Pool>& pools, const std::vector<Frame>& frames,
                   const std::vector<double*>& out) {
  const Depth depth(points.dim);
  std::vector<Packed<double>> packed(pools.size());
  std::vector<Task> packing, panels;
  for (std::size_t p = 0; p < pools.size(); ++p) {
    packed[p].allocate(pools[p].size, points.dim, true, true);
    for (int64_t i = 0; i < pools[p].size; i += packing_chunk<double>())
      packing.push_back({p, i, std::min(i + packing_chunk<double>(), pools[p].size)});
    for (int64_t i = 0; i < pools[p].size; i += block_rows<double>())
      panels.push_back({p, i, std::min(i + block_rows<double>(), pools[p].size)});
  }
  const int64_t scratch_size = packing_chunk<double>() * points.dim;
  Buffer<double> scratch(workers_for(int64_t(packing.size())) * scratch_size);
  for_each_task(int64_t(packing.size()), [&](int64_t t, int64_t worker) {
    const Task& task = packing[t];
    packed[task.index].pack(points, pools[task.index], frames[task.index], 1.0, depth, task.begin, task.end,
                            scratch.get() + worker * scratch_size);
  });
  const int64_t area = block_rows<double>() * block_stride<double>();
  Buffer<double> values(workers_for(int64_t(panels.size())) * area);
  for_each_task(int64_t(panels.size()), [&](int64_t t, int64_t worker) {
    const Task& task = panels[int64_t(panels.size()) - 1 - t];
    const Pool& pool = pools[task.index];
    for (int64_t j = 0; j < task.end; j += block_columns<double>()) {
      const Block block{task.begin, task.end, j, std::min(j + block_columns<double>(), pool.size)};
      const GramBlock<double> gram =
          gram_block<double>(packed[task.index], packed[task.index], depth, block, task.begin - j,
                             values.get() + worker * area, block_stride<double>());
      for (int64_t i = task.begin; i < task.end; ++i)
        hot<double>().squared_distances(gram, i - task.begin, std::min(block.column_end, i) - j,
                                        out[task.index] + i * (i - 1) / 2 + j);
    }
  });
}

}  // namespace

Tensor median_square_distance(Tensor z, Tensor rows, int64_t max_rows, int64_t seed) {
  const Points points = as_points(z);
  std::vector<Pool> pools = read_pools(rows, points, "rows");
  AWPF_CHECK(max_rows >= 2, "max_rows must be at least 2");
  const int64_t problems = int64_t(pools.size());
  for (int64_t p = 0; p < problems; ++p) {
    AWPF_CHECK(pools[p].size >= 2, "bandwidth=\"median\" needs at least two points");
    AWPF_CHECK(pools[p].size < int64_t(1) << 31, "at most 2^31 - 1 pooled rows");
    pools[p] = subsample(pools[p], max_rows, uint64_t(seed));
  }
  Tensor result = torch::stable::new_empty(z, {problems}, ScalarType::Double);
  double* medians = result.mutable_data_ptr<double>();
  for (int64_t first = 0; first < problems;) {
    int64_t last = first, pairs = 0;
    while (last < problems && (last == first || pairs + pairs_of(pools[last]) <= kWavePairs))
      pairs += pairs_of(pools[last++]);
    const std::vector<Pool> wave(pools.begin() + first, pools.begin() + last);
    const std::vector<Frame> frames = find_frames(points, wave, {}, nullptr);
    Buffer<double> distances(pairs);
    std::vector<double*> out;
    for (int64_t p = first, start = 0; p < last; start += pairs_of(pools[p++])) out.push_back(distances.get() + start);
    all_distances(points, wave, frames, out);
    for_each_task(last - first, [&](int64_t k, int64_t) {
      double* const begin = out[k];
      double* const middle = begin + (pairs_of(wave[k]) - 1) / 2;
      std::nth_element(begin, middle, begin + pairs_of(wave[k]));
      medians[first + k] = *middle;
    });
    for (int64_t k = first; k < last; ++k)
      AWPF_CHECK(medians[k] > 0,
                 "bandwidth=\"median\": the median distance is zero, because at least half of the pairs ",
                 "of points are equal; give a bandwidth instead");
    first = last;
  }
  return result;
}

}  // namespace awpf

// The places that the median looks at in a pool of more than `count` rows, for pools spread over several processes.
extern "C" __attribute__((visibility("default"))) void awpf_shuffled_places(int64_t seed, int64_t rows, int64_t count,
                                                                            int64_t* places) {
  const awpf::ShuffleKey key = awpf::shuffle_key(uint64_t(seed), 0, uint64_t(rows));
  for (int64_t k = 0; k < count; ++k) places[k] = awpf::shuffled(uint32_t(k), uint32_t(rows), key);
}
