// The rule for median bandwidths: the median of the squared distances between all pairs of pooled points, or between
// all pairs of a seeded subsample of them. It is computed in double for every input type, so that all types and devices
// agree. Of an even number of distances it is the lower of the two middle ones.
#include <algorithm>

#include "common/ops.h"
#include "cpu/mmd/packed_rows.h"
#include "cpu/parallel.h"

namespace awpf {
namespace {

constexpr int64_t kPairsAtOnce = int64_t(8) << 20;

// At most `max_rows` of the pooled rows, chosen by the shuffle of `seed`.
PooledRows subsample(const PooledRows& pooled, int64_t max_rows, uint64_t seed) {
  if (pooled.size <= max_rows) return pooled;
  const ShuffleKey key = shuffle_key(seed, 0, uint64_t(pooled.size));
  PooledRows chosen;
  for (int64_t k = 0; k < max_rows; ++k) {
    const int64_t position = shuffled(uint32_t(k), uint32_t(pooled.size), key);
    const Group& group = pooled.groups[pooled.group_at(position)];
    chosen.groups.push_back({group.first_row + position - group.begin, k, 1});
  }
  chosen.size = max_rows;
  return chosen;
}

int64_t pairs_of(const PooledRows& pooled) { return pooled.size * (pooled.size - 1) / 2; }

struct WorkItem {
  std::size_t member;
  int64_t begin, end;
};

// All squared distances below the diagonal of each member of a batch, row by row: those of row i start at i (i - 1) / 2
// of its part of `out`.
void all_distances(const Points& points, const std::vector<PooledRows>& batch, const std::vector<Centering>& centerings,
                   const std::vector<double*>& out) {
  const DepthBlocks depth(points.dim);
  std::vector<PackedRows<double>> packed(batch.size());
  std::vector<WorkItem> packing, panels;
  for (std::size_t member = 0; member < batch.size(); ++member) {
    const int64_t size = batch[member].size;
    packed[member].allocate(size, points.dim);
    for (int64_t i = 0; i < size; i += packing_chunk<double>())
      packing.push_back({member, i, std::min(i + packing_chunk<double>(), size)});
    for (int64_t i = 0; i < size; i += block_rows<double>())
      panels.push_back({member, i, std::min(i + block_rows<double>(), size)});
  }
  const int64_t scratch_size = packing_chunk<double>() * points.dim;
  Buffer<double> scratch(workers_for(int64_t(packing.size())) * scratch_size);
  for_each_task(int64_t(packing.size()), [&](int64_t t, int64_t worker) {
    const WorkItem& task = packing[t];
    packed[task.member].pack(points, batch[task.member], centerings[task.member], 1.0, depth, task.begin, task.end,
                             scratch.get() + worker * scratch_size);
  });
  const int64_t area = block_rows<double>() * block_stride<double>();
  Buffer<double> values(workers_for(int64_t(panels.size())) * area);
  for_each_task(int64_t(panels.size()), [&](int64_t t, int64_t worker) {
    const WorkItem& task = panels[int64_t(panels.size()) - 1 - t];  // the longest first
    for (int64_t j = 0; j < task.end; j += block_columns<double>()) {
      const Block block{task.begin, task.end, j, std::min(j + block_columns<double>(), batch[task.member].size)};
      const GramBlock<double> gram =
          gram_block<double>(packed[task.member], packed[task.member], depth, block, task.begin - j,
                             values.get() + worker * area, block_stride<double>());
      for (int64_t i = task.begin; i < task.end; ++i)
        kernels<double>().squared_distances(gram, i - task.begin, std::min(block.column_end, i) - j,
                                            out[task.member] + i * (i - 1) / 2 + j);
    }
  });
}

// The medians of the problems of a batch.
void find_medians(const Points& points, const std::vector<PooledRows>& batch, double* medians) {
  const std::vector<Centering> centerings = find_centres(points, batch, {}, nullptr);
  int64_t pairs = 0;
  for (const PooledRows& pooled : batch) pairs += pairs_of(pooled);
  Buffer<double> distances(pairs);
  std::vector<double*> out;
  pairs = 0;
  for (const PooledRows& pooled : batch) {
    out.push_back(distances.get() + pairs);
    pairs += pairs_of(pooled);
  }
  all_distances(points, batch, centerings, out);
  for_each_task(int64_t(batch.size()), [&](int64_t k, int64_t) {
    double* const begin = out[k];
    double* const middle = begin + (pairs_of(batch[k]) - 1) / 2;
    std::nth_element(begin, middle, begin + pairs_of(batch[k]));
    medians[k] = *middle;
  });
}

}  // namespace

Tensor median_square_distance(Tensor z, Tensor rows, int64_t max_rows, int64_t seed) {
  const Points points = as_points(z);
  std::vector<PooledRows> problems = read_pooled_rows(rows, points, "rows");
  AWPF_CHECK(max_rows >= 2, "max_rows must be at least 2");
  for (PooledRows& pooled : problems) {
    AWPF_CHECK(pooled.size >= 2, "bandwidth=\"median\" needs at least two points");
    AWPF_CHECK(pooled.size < int64_t(1) << 31, "at most 2^31 - 1 pooled rows");
    pooled = subsample(pooled, max_rows, uint64_t(seed));
  }
  const int64_t count = int64_t(problems.size());
  Tensor result = torch::stable::new_empty(z, {count}, ScalarType::Double);
  double* medians = result.mutable_data_ptr<double>();
  for (int64_t first = 0; first < count;) {
    int64_t last = first, pairs = 0;
    while (last < count && (last == first || pairs + pairs_of(problems[last]) <= kPairsAtOnce))
      pairs += pairs_of(problems[last++]);
    find_medians(points, {problems.begin() + first, problems.begin() + last}, medians + first);
    for (int64_t k = first; k < last; ++k)
      AWPF_CHECK(medians[k] > 0,
                 "bandwidth=\"median\": the median distance is zero, because at least half of the pairs ",
                 "of points are equal; give a bandwidth instead");
    first = last;
  }
  return result;
}

}  // namespace awpf

// The positions that the median considers in a pool of more than `count` rows; for pools that are spread over several
// processes.
extern "C" __attribute__((visibility("default"))) void awpf_sampled_rows(int64_t seed, int64_t rows, int64_t count,
                                                                         int64_t* positions) {
  const awpf::ShuffleKey key = awpf::shuffle_key(uint64_t(seed), 0, uint64_t(rows));
  for (int64_t k = 0; k < count; ++k) positions[k] = awpf::shuffled(uint32_t(k), uint32_t(rows), key);
}
