#include "cpu/mmd/pooled_rows.h"

namespace awpf {

int64_t PooledRows::group_at(int64_t position) const {
  const auto after = std::upper_bound(groups.begin(), groups.end(), position,
                                      [](int64_t p, const Group& group) { return p < group.begin; });
  return after - groups.begin() - 1;
}

std::vector<PooledRows> read_pooled_rows(const Tensor& ranges, const Points& points, const char* name) {
  check_cpu_contiguous(ranges, name);
  check_type(ranges, ScalarType::Long, name, "int64");
  AWPF_CHECK(ranges.dim() == 3 && ranges.size(2) == 2, name, " must have shape (problems, groups, 2)");
  const int64_t* bounds = ranges.const_data_ptr<int64_t>();
  std::vector<PooledRows> problems(ranges.size(0));
  for (PooledRows& pooled : problems) {
    pooled.groups.reserve(ranges.size(1));
    for (int64_t g = 0; g < ranges.size(1); ++g, bounds += 2) {
      AWPF_CHECK(0 <= bounds[0] && bounds[0] <= bounds[1] && bounds[1] <= points.rows, name,
                 ": a group holds the rows ", bounds[0], " to ", bounds[1], ", outside the ", points.rows,
                 " rows there are");
      pooled.groups.push_back({bounds[0], pooled.size, bounds[1] - bounds[0]});
      pooled.size += bounds[1] - bounds[0];
      AWPF_CHECK(pooled.size < int64_t(1) << 31, name, ": a problem has at most 2^31 - 1 pooled rows");
    }
  }
  return problems;
}

}  // namespace awpf
