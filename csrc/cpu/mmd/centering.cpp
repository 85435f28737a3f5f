#include "cpu/mmd/centering.h"

#include <cmath>

#include "cpu/buffer.h"

namespace awpf {
namespace {

constexpr int64_t kRowsPerItem = 64;

struct WorkItem {
  int64_t problem, begin, end;
  bool columns;
};

}  // namespace

void report_row(const Points& points, const PooledRows& pooled) {
  std::vector<double> sum(points.dim);
  for (const Group& group : pooled.groups)
    for (int64_t r = group.first_row; r < group.first_row + group.length; ++r) {
      std::fill(sum.begin(), sum.end(), 0.0);
      kernel_table().add_rows(sum.data(), points.row(r), points.type, points.dim, 1, points.dim);
      for (const double value : sum)
        AWPF_CHECK(std::isfinite(value), "row ", r, " of the pooled points holds a NaN or an infinity");
    }
  AWPF_CHECK(false, "the points are too large: their squared norms overflow");
}

std::vector<Centering> find_centres(const Points& points, const std::vector<PooledRows>& rows,
                                    const std::vector<PooledRows>& columns, const double* given_centres) {
  const int64_t dim = points.dim, problems = int64_t(rows.size());
  std::vector<WorkItem> tasks;
  for (int64_t p = 0; p < problems; ++p)
    for (int side = 0; side < (columns.empty() ? 1 : 2); ++side) {
      const PooledRows& pooled = side == 0 ? rows[p] : columns[p];
      for (int64_t begin = 0; begin < pooled.size; begin += kRowsPerItem)
        tasks.push_back({p, begin, std::min(begin + kRowsPerItem, pooled.size), side == 1});
    }
  // Each task leaves the sum of its rows, followed by the sum of their squares.
  Buffer<double> partial(int64_t(tasks.size()) * (dim + 1));
  for_each_task(int64_t(tasks.size()), [&](int64_t t, int64_t) {
    double* sums = partial.get() + t * (dim + 1);
    std::fill(sums, sums + dim + 1, 0.0);
    const WorkItem& task = tasks[t];
    const PooledRows& pooled = task.columns ? columns[task.problem] : rows[task.problem];
    pooled.for_runs(task.begin, task.end, [&](int64_t first, int64_t, int64_t count) {
      sums[dim] += kernel_table().add_rows(sums, points.row(first), points.type, dim, count, dim);
    });
  });
  std::vector<Centering> found(problems);
  std::vector<double> squares(problems, 0.0);
  for (Centering& centering : found) centering.centre.assign(dim, 0.0);
  for (std::size_t t = 0; t < tasks.size(); ++t) {
    const double* sums = partial.get() + int64_t(t) * (dim + 1);
    Centering& centering = found[tasks[t].problem];
    for (int64_t k = 0; k < dim; ++k) centering.centre[k] += sums[k];
    squares[tasks[t].problem] += sums[dim];
  }
  for (int64_t p = 0; p < problems; ++p) {
    if (!std::isfinite(squares[p])) {
      report_row(points, rows[p]);
      if (!columns.empty()) report_row(points, columns[p]);
    }
    const int64_t count = rows[p].size + (columns.empty() ? 0 : columns[p].size);
    if (count == 0) continue;
    // mean |z - centre|^2 = mean |z|^2 + centre . (centre - 2 mean)
    double offset = 0;
    for (int64_t k = 0; k < dim; ++k) {
      const double mean = found[p].centre[k] / double(count);
      const double centre = given_centres != nullptr ? given_centres[p * dim + k] : mean;
      found[p].centre[k] = centre;
      offset += centre * (centre - 2 * mean);
    }
    found[p].mean_square = std::max(0.0, squares[p] / double(count) + offset);
  }
  return found;
}

void centre_the_bulk(const Points& points, const PooledRows& rows, const PooledRows* columns,
                     std::vector<double>& centre, EarlyEnd& end_early) {
  constexpr double kFar = 16;  // in squares, relative to the median
  constexpr int kMostPasses = 4;
  const int64_t dim = points.dim, row_count = rows.size, count = row_count + (columns == nullptr ? 0 : columns->size);
  const auto for_runs = [&](const auto& f) {
    rows.for_runs(0, row_count, f);
    if (columns != nullptr)
      columns->for_runs(0, columns->size,
                        [&](int64_t first, int64_t position, int64_t n) { f(first, row_count + position, n); });
  };
  std::vector<double> squares(count), sorted, centred(dim), sum(dim);
  for (int64_t pass = 0, kept_before = count; pass < kMostPasses && !end_early.wanted(); ++pass) {
    for_runs([&](int64_t first, int64_t position, int64_t n) {
      kernels<double>().centre_rows(centred.data(), 0, points.row(first), points.type, dim, n, dim, centre.data(), 1.0,
                                    squares.data() + position);
    });
    sorted = squares;
    std::nth_element(sorted.begin(), sorted.begin() + count / 2, sorted.end());
    const double farthest = kFar * sorted[count / 2];
    std::fill(sum.begin(), sum.end(), 0.0);
    int64_t kept = 0;
    for_runs([&](int64_t first, int64_t position, int64_t n) {
      for (int64_t k = 0; k < n; ++k) {
        if (!(squares[position + k] <= farthest)) continue;
        kernel_table().add_rows(sum.data(), points.row(first + k), points.type, dim, 1, dim);
        ++kept;
      }
    });
    if (kept == kept_before || kept == 0) return;
    kept_before = kept;
    for (int64_t k = 0; k < dim; ++k) centre[k] = sum[k] / double(kept);
  }
}

}  // namespace awpf
