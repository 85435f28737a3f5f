#include "pooled.h"

#include <algorithm>
#include <cmath>

namespace awpf {

Points as_points(const Tensor& z) {
  check_cpu_contiguous(z, "z");
  AWPF_CHECK(z.dim() == 2, "z must have two dimensions");
  Points points{static_cast<const char*>(z.const_data_ptr()), Element::f32, 4, z.size(0), z.size(1)};
  switch (z.scalar_type()) {
    case ScalarType::Half: points.element = Element::f16, points.element_bytes = 2; break;
    case ScalarType::BFloat16: points.element = Element::bf16, points.element_bytes = 2; break;
    case ScalarType::Float: break;
    case ScalarType::Double: points.element = Element::f64, points.element_bytes = 8; break;
    default: AWPF_CHECK(false, "z must be float16, bfloat16, float32 or float64");
  }
  return points;
}

int64_t Pool::group_at(int64_t place) const {
  const auto after = std::upper_bound(groups.begin(), groups.end(), place,
                                      [](int64_t p, const Group& group) { return p < group.start; });
  return after - groups.begin() - 1;
}

std::vector<Pool> read_pools(const Tensor& ranges, const Points& points, const char* name) {
  check_cpu_contiguous(ranges, name);
  check_type(ranges, ScalarType::Long, name, "int64");
  AWPF_CHECK(ranges.dim() == 3 && ranges.size(2) == 2, name, " must have shape (problems, groups, 2)");
  const int64_t* bounds = ranges.const_data_ptr<int64_t>();
  std::vector<Pool> pools(ranges.size(0));
  for (Pool& pool : pools) {
    pool.groups.reserve(ranges.size(1));
    for (int64_t g = 0; g < ranges.size(1); ++g, bounds += 2) {
      AWPF_CHECK(0 <= bounds[0] && bounds[0] <= bounds[1] && bounds[1] <= points.rows, name,
                 ": a group holds the rows ", bounds[0], " to ", bounds[1], ", outside the ", points.rows,
                 " rows there are");
      pool.groups.push_back({bounds[0], pool.size, bounds[1] - bounds[0]});
      pool.size += bounds[1] - bounds[0];
    }
  }
  return pools;
}

double KernelMixture::scale() const { return std::sqrt(2.0 * widest_gamma / std::log(2.0)); }

KernelMixture read_mixture(const double* gamma, int64_t count) {
  AWPF_CHECK(count > 0, "bandwidth: at least one kernel is needed");
  KernelMixture mixture{std::vector<KernelStep>(count), 0, 0};
  const double sum = sort_exponents(gamma, int(count), mixture.steps.data());
  mixture.widest_gamma = mixture.steps.front().rate;
  mixture.mean_gamma = sum / double(count);
  AWPF_CHECK(fill_kernel_steps(mixture.steps.data(), int(count), 0.5 * double(count)),
             "bandwidth: every bandwidth must be a positive, finite number");
  return mixture;
}

template <class T>
MixtureArrays<T>::MixtureArrays(const KernelMixture& mixture) {
  for (const KernelStep& step : mixture.steps) {
    squarings.push_back(step.squarings);
    rate.push_back(T(step.rate));
    weight.push_back(T(step.weight));
  }
}

namespace {

constexpr int64_t kCentreChunk = 2048;

struct CentreTask {
  int64_t problem, begin, end;
  bool columns;
};

// Names the first row that is not finite, or says that its square overflows.
void report_row(const Points& points, const Pool& pool) {
  std::vector<double> sum(points.dim);
  for (const Group& group : pool.groups)
    for (int64_t r = group.begin; r < group.begin + group.length; ++r) {
      std::fill(sum.begin(), sum.end(), 0.0);
      hot_loops().add_rows(sum.data(), points.row(r), points.element, points.dim, 1, points.dim);
      for (const double value : sum)
        AWPF_CHECK(std::isfinite(value), "row ", r, " of the pooled points holds a NaN or an infinity");
    }
  AWPF_CHECK(false, "the points are too large: their squared norms overflow");
}

}  // namespace

std::vector<Frame> find_frames(const Points& points, const std::vector<Pool>& rows, const std::vector<Pool>& columns,
                               const double* given_centres) {
  const int64_t dim = points.dim, problems = int64_t(rows.size());
  std::vector<CentreTask> tasks;
  for (int64_t p = 0; p < problems; ++p)
    for (int side = 0; side < (columns.empty() ? 1 : 2); ++side) {
      const Pool& pool = side == 0 ? rows[p] : columns[p];
      for (int64_t begin = 0; begin < pool.size; begin += kCentreChunk)
        tasks.push_back({p, begin, std::min(begin + kCentreChunk, pool.size), side == 1});
    }
  // Each task leaves the sum of its rows and, in the last place, the sum of their squares.
  Buffer<double> partial(int64_t(tasks.size()) * (dim + 1));
  for_each_task(int64_t(tasks.size()), [&](int64_t t, int64_t) {
    double* sums = partial.get() + t * (dim + 1);
    std::fill(sums, sums + dim + 1, 0.0);
    const CentreTask& task = tasks[t];
    const Pool& pool = task.columns ? columns[task.problem] : rows[task.problem];
    pool.for_runs(task.begin, task.end, [&](int64_t first, int64_t, int64_t count) {
      sums[dim] += hot_loops().add_rows(sums, points.row(first), points.element, dim, count, dim);
    });
  });
  std::vector<Frame> frames(problems);
  std::vector<double> squares(problems, 0.0);
  for (Frame& frame : frames) frame.centre.assign(dim, 0.0);
  for (std::size_t t = 0; t < tasks.size(); ++t) {
    const double* sums = partial.get() + int64_t(t) * (dim + 1);
    Frame& frame = frames[tasks[t].problem];
    for (int64_t k = 0; k < dim; ++k) frame.centre[k] += sums[k];
    squares[tasks[t].problem] += sums[dim];
  }
  for (int64_t p = 0; p < problems; ++p) {
    if (!std::isfinite(squares[p])) {
      report_row(points, rows[p]);
      if (!columns.empty()) report_row(points, columns[p]);
    }
    const int64_t count = rows[p].size + (columns.empty() ? 0 : columns[p].size);
    if (count == 0) continue;
    double offset = 0;
    for (int64_t k = 0; k < dim; ++k) {
      const double mean = frames[p].centre[k] / double(count);
      const double centre = given_centres != nullptr ? given_centres[p * dim + k] : mean;
      frames[p].centre[k] = centre;
      offset += centre * (centre - 2 * mean);
    }
    frames[p].mean_square = std::max(0.0, squares[p] / double(count) + offset);
  }
  return frames;
}

Depth::Depth(int64_t dim) : total(dim) {
  constexpr int64_t kDeepest = 320;
  const int64_t blocks = std::max<int64_t>(1, ceil_div(dim, kDeepest));
  block = std::max<int64_t>(1, ceil_div(dim, blocks));
}

template <class T>
void Packed<T>::allocate(int64_t rows, int64_t dim, bool with_a, bool with_b) {
  const auto& loops = hot<T>();
  size = rows;
  padded_a = round_up(rows, loops.rows);
  padded_b = round_up(rows, loops.columns);
  if (with_a) a = Buffer<T>(padded_a * dim);
  if (with_b) b = Buffer<T>(padded_b * dim);
  // Whole vectors are loaded from any column on.
  const int64_t padded = std::max(padded_a, padded_b) + kAlignment / int64_t(sizeof(T));
  norm = Buffer<T>(padded);
  norm_rest = Buffer<T>(padded);
  std::fill(norm.get() + rows, norm.get() + padded, T(0));
  std::fill(norm_rest.get() + rows, norm_rest.get() + padded, T(0));
}

template <class T>
void Packed<T>::pack(const Points& points, const Pool& pool, const Frame& frame, double scale, const Depth& depth,
                     int64_t begin, int64_t end, T* scratch) {
  const auto& loops = hot<T>();
  const int64_t dim = points.dim;
  std::vector<double> half_norm(end - begin);
  pool.for_runs(begin, end, [&](int64_t first, int64_t place, int64_t count) {
    loops.centre_rows(scratch + (place - begin) * dim, dim, points.row(first), points.element, dim, count, dim,
                      frame.centre.data(), scale, half_norm.data() + (place - begin));
  });
  for (int64_t i = begin; i < end; ++i) {
    norm[i] = T(half_norm[i - begin]);
    norm_rest[i] = T(half_norm[i - begin] - double(norm[i]));
  }
  for (int64_t k = 0; k < dim; k += depth.block) {
    const int64_t block = std::min(depth.block, dim - k);
    if (a.get()) loops.pack_rows_a(a.get() + k * padded_a + begin * block, scratch + k, dim, end - begin, block);
    if (b.get()) loops.pack_rows_b(b.get() + k * padded_b + begin * block, scratch + k, dim, end - begin, block);
  }
}

template <class T>
GramBlock<T> gram_block(const Packed<T>& rows, const Packed<T>& columns, const Depth& depth, const Block& block,
                        int64_t diagonal, T* values, int64_t stride) {
  const auto& loops = hot<T>();
  const int64_t row_strips = ceil_div(block.row_end - block.row_begin, loops.rows);
  const int64_t column_strips = ceil_div(block.column_end - block.column_begin, loops.columns);
  for (int64_t k = 0; k < depth.total; k += depth.block) {
    const int64_t count = std::min(depth.block, depth.total - k);
    loops.multiply(rows.a.get() + k * rows.padded_a + block.row_begin * count,
                   columns.b.get() + k * columns.padded_b + block.column_begin * count, values, stride, row_strips,
                   column_strips, count, k > 0, diagonal);
  }
  return {values,
          stride,
          rows.norm.get() + block.row_begin,
          rows.norm_rest.get() + block.row_begin,
          columns.norm.get() + block.column_begin,
          columns.norm_rest.get() + block.column_begin,
          block.row_begin - block.column_begin};
}

#define AWPF_INSTANTIATE(T)                                                                                        \
  template struct MixtureArrays<T>;                                                                                \
  template struct Packed<T>;                                                                                       \
  template GramBlock<T> gram_block<T>(const Packed<T>&, const Packed<T>&, const Depth&, const Block&, int64_t, T*, \
                                      int64_t);
AWPF_INSTANTIATE(float)
AWPF_INSTANTIATE(double)
#undef AWPF_INSTANTIATE

}  // namespace awpf
