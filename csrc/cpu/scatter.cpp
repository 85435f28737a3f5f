// Class means and scatter matrices of labelled points.
//
// S_W = sum_i (x_i - mu_{y_i})(x_i - mu_{y_i})', S_B = sum_c n_c (mu_c - mu)(mu_c - mu)'. Counts and means are computed
// in the same call. FLOPs: n d^2 (only the lower triangle). Memory traffic: the points are read twice. Memory: a few
// d x d accumulators. Tricks: the class mean is subtracted while a slice of points is packed, so that there is no
// centred copy; the product of a slice is in single precision for single-precision points, and the slices are added up
// in double, in a fixed order. Where squares leave the range of single precision, everything is in double instead.
#include "common/scatter.h"

#include <algorithm>
#include <cmath>

#include "common/ops.h"
#include "cpu/parallel.h"
#include "cpu/points.h"
#include "cpu/tiling.h"

namespace awpf {
namespace {

constexpr int64_t kSlice = 256;         // points packed at a time
constexpr int64_t kPanel = 512;         // rows of the result that one task computes
constexpr int64_t kFeatureSlice = 64;   // features whose class sums one task computes
constexpr int64_t kRowsAtOnce = 16384;  // whose class sums are computed before an interrupt is looked for
constexpr int64_t kAccumulatorBytes = int64_t(96) << 20;
// Where the mean square of a feature is below this (2^-100), products in single precision lose bits to underflow.
constexpr double kLeastMeanSquare = 7.9e-31;
// Deviations from the class mean of this size relative to the points (2^-45) are the rounding of the mean.
constexpr double kRoundingOfMean = 2.8e-14;

// Rows of which the centre of their label is subtracted.
struct LabelledRows {
  const void* from;
  ElementType type;
  int64_t element_bytes, rows, dim;
  const double* centres;
  const int64_t* labels;
};

// Into how many chunks the rows are cut: enough to keep a few threads busy, and few enough that each can have an
// accumulator. Depends on the sizes alone, so that the result does not depend on the number of threads.
int64_t chunk_count(int64_t rows, int64_t dim) {
  const int64_t affordable = std::max<int64_t>(1, kAccumulatorBytes / (dim * dim * int64_t(sizeof(double))));
  return std::max<int64_t>(1, std::min<int64_t>({ceil_div(rows, 2 * kSlice), affordable, 16}));
}

// Adds the products of the rows [begin, end) to the rows [panel_begin, panel_end) of `sums`, its lower triangle.
template <class T>
void add_panel(const LabelledRows& x, int64_t begin, int64_t end, int64_t panel_begin, int64_t panel_end, double* sums,
               T* slice, T* a, T* b, T* product, EarlyEnd& end_early) {
  const auto& table = kernels<T>();
  const int64_t width = round_up(panel_end, table.tile_columns),
                height = round_up(panel_end - panel_begin, table.tile_rows);
  for (int64_t row = begin; row < end && !end_early.wanted(); row += kSlice) {
    const int64_t count = std::min(kSlice, end - row);
    const char* from = static_cast<const char*>(x.from) + row * x.dim * x.element_bytes;
    table.centre_by_label(slice, x.dim, from, x.type, x.dim, count, panel_end, x.centres, x.dim, x.labels + row);
    table.pack_columns_a(a, slice + panel_begin, x.dim, panel_end - panel_begin, count);
    table.pack_columns_b(b, slice, x.dim, panel_end, count);
    table.multiply(a, b, product, width, height / table.tile_rows, width / table.tile_columns, count, false,
                   panel_begin);
    for (int64_t r = panel_begin; r < panel_end; ++r)
      table.add_block(sums + r * x.dim, x.dim, product + (r - panel_begin) * width, width, 1, r + 1);
  }
}

// result (dim x dim) = sum of the outer products of the centred rows, both triangles.
template <class T>
void outer_products(const LabelledRows& x, double* result) {
  const auto& table = kernels<T>();
  const int64_t dim = x.dim, area = dim * dim;
  const int64_t chunks = chunk_count(x.rows, dim), panels = ceil_div(dim, kPanel);
  const int64_t per_chunk = round_up(ceil_div(x.rows, chunks), kSlice);
  const int64_t tasks = chunks * panels, workers = workers_for(tasks);
  const int64_t width = round_up(dim, table.tile_columns), height = round_up(std::min(dim, kPanel), table.tile_rows);
  Buffer<double> sums(chunks * area);
  const int64_t a_size = StripLayout<T>(Operand::a, height, one_block(kSlice)).size();
  const int64_t b_size = StripLayout<T>(Operand::b, width, one_block(kSlice)).size();
  Buffer<T> slice(workers * kSlice * dim), a(workers * a_size), b(workers * b_size), product(workers * height * width);
  for_each_task(tasks, [&](int64_t task, int64_t worker, EarlyEnd& end_early) {
    const int64_t chunk = task / panels, panel = panels - 1 - task % panels;  // the widest panel first
    const int64_t panel_begin = panel * kPanel, panel_end = std::min(panel_begin + kPanel, dim);
    double* own_sums = sums.get() + chunk * area;
    std::fill(own_sums + panel_begin * dim, own_sums + panel_end * dim, 0.0);
    add_panel<T>(x, chunk * per_chunk, std::min((chunk + 1) * per_chunk, x.rows), panel_begin, panel_end, own_sums,
                 slice.get() + worker * kSlice * dim, a.get() + worker * a_size, b.get() + worker * b_size,
                 product.get() + worker * height * width, end_early);
  });
  for_each_task(dim, [&](int64_t r, int64_t) {
    for (int64_t k = 0; k <= r; ++k) {
      double sum = 0;
      for (int64_t chunk = 0; chunk < chunks; ++chunk) sum += sums[chunk * area + r * dim + k];
      result[r * dim + k] = result[k * dim + r] = sum;
    }
  });
}

// The sum of the rows of each class, in double and in the order of the rows. Each task takes a slice of the features.
void class_sums(const Points& x, int64_t first_row, int64_t rows, const int64_t* labels, int64_t classes,
                double* sums) {
  std::fill(sums, sums + classes * x.dim, 0.0);
  for_each_task(ceil_div(x.dim, kFeatureSlice), [&](int64_t t, int64_t, EarlyEnd& end_early) {
    const int64_t begin = t * kFeatureSlice, count = std::min(kFeatureSlice, x.dim - begin);
    for (int64_t row = 0; row < rows && !end_early.wanted(); row += kRowsAtOnce)
      kernel_table().add_rows_by_label(sums + begin, x.dim,
                                       static_cast<const char*>(x.row(first_row + row)) + begin * x.element_bytes,
                                       x.type, x.dim, std::min(kRowsAtOnce, rows - row), count, labels + row);
  });
}

// Whether single precision was too narrow for the squares of some feature, whose sums are on the diagonal: they
// overflowed, or are so small that underflow may have taken part of them.
bool float_was_too_narrow(const LabelledRows& x, const double* within) {
  std::vector<int64_t> small;
  for (int64_t k = 0; k < x.dim; ++k) {
    const double square = within[k * x.dim + k];
    if (!std::isfinite(square)) return true;
    if (square < kLeastMeanSquare * double(x.rows)) small.push_back(k);
  }
  if (small.empty()) return false;
  // Most small features are constant. Their points are looked at, since all that is left of others may be zero, too.
  struct Extremes {
    double value, deviation;
  };
  const int64_t features = int64_t(small.size()), chunks = ceil_div(x.rows, kRowsAtOnce);
  Buffer<Extremes> extremes(chunks * features);
  for_each_task(chunks, [&](int64_t chunk, int64_t) {
    Extremes* own = extremes.get() + chunk * features;
    std::fill(own, own + features, Extremes{0, 0});
    std::vector<double> row(x.dim);
    for (int64_t i = chunk * kRowsAtOnce; i < std::min((chunk + 1) * kRowsAtOnce, x.rows); ++i) {
      std::fill(row.begin(), row.end(), 0.0);
      kernel_table().add_rows(row.data(), static_cast<const char*>(x.from) + i * x.dim * x.element_bytes, x.type, x.dim,
                              1, x.dim);
      const double* centre = x.centres + x.labels[i] * x.dim;
      for (int64_t s = 0; s < features; ++s) {
        const double value = row[small[s]];
        own[s].value = std::max(own[s].value, std::abs(value));
        own[s].deviation = std::max(own[s].deviation, std::abs(value - centre[small[s]]));
      }
    }
  });
  for (int64_t s = 0; s < features; ++s) {
    Extremes all{0, 0};
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      all.value = std::max(all.value, extremes[chunk * features + s].value);
      all.deviation = std::max(all.deviation, extremes[chunk * features + s].deviation);
    }
    if (all.deviation > kRoundingOfMean * all.value) return true;
  }
  return false;
}

// Raises an error: a row of this class is not finite, or the sum of its finite rows overflows.
[[noreturn]] void report_class(const Points& x, int64_t first_row, int64_t rows, const int64_t* labels, int64_t label) {
  for (int64_t i = 0; i < rows; ++i) {
    if (labels[i] != label) continue;
    std::vector<double> row(x.dim, 0.0);
    kernel_table().add_rows(row.data(), x.row(first_row + i), x.type, x.dim, 1, x.dim);
    for (const double value : row)
      AWPF_CHECK(std::isfinite(value), "x: a row of class ", label, " holds a NaN or an infinity");
  }
  fail("x is too large: the sum of the rows of class ", label, " overflows");
}

void check_overflow(const double* matrix, int64_t dim) {
  for (int64_t k = 0; k < dim; ++k)  // no other element is larger than those of its row and its column here
    AWPF_CHECK(std::isfinite(matrix[k * dim + k]), "x is too large: its scatter overflows float64");
}

struct Output {
  double *within, *between, *means;
  int64_t* counts;
};

void scatter_one(const Points& x, int64_t first_row, int64_t rows, const int64_t* labels, int64_t classes,
                 const Output& out) {
  const int64_t dim = x.dim;
  std::fill(out.counts, out.counts + classes, int64_t(0));
  for (int64_t i = 0; i < rows; ++i) {
    AWPF_CHECK(labels[i] >= 0 && labels[i] < classes, "labels: label ", labels[i], " of row ", i, " is outside 0 to ",
               classes - 1);
    ++out.counts[labels[i]];
  }
  class_sums(x, first_row, rows, labels, classes, out.means);
  std::vector<double> mean(dim, 0.0);
  for (int64_t c = 0; c < classes; ++c)
    for (int64_t k = 0; k < dim; ++k) {
      double& value = out.means[c * dim + k];
      if (!std::isfinite(value)) report_class(x, first_row, rows, labels, c);
      mean[k] += value;
      if (out.counts[c] > 0) value /= double(out.counts[c]);
    }
  for (double& value : mean) value /= double(std::max<int64_t>(rows, 1));

  const LabelledRows points{x.row(first_row), x.type, x.element_bytes, rows, dim, out.means, labels};
  if (x.type != ElementType::f64) outer_products<float>(points, out.within);
  if (x.type == ElementType::f64 || float_was_too_narrow(points, out.within))
    outer_products<double>(points, out.within);
  check_overflow(out.within, dim);

  // The between-class scatter is that of one row sqrt(n_c) (mu_c - mu) per class, all with the label 0 and centre 0.
  Buffer<double> weighted_means(classes * dim), zero(dim);
  Buffer<int64_t> label(classes);
  std::fill(zero.get(), zero.get() + dim, 0.0);
  std::fill(label.get(), label.get() + classes, int64_t(0));
  for (int64_t c = 0; c < classes; ++c)
    for (int64_t k = 0; k < dim; ++k)
      weighted_means[c * dim + k] =
          out.counts[c] > 0 ? std::sqrt(double(out.counts[c])) * (out.means[c * dim + k] - mean[k]) : 0;
  outer_products<double>({weighted_means.get(), ElementType::f64, 8, classes, dim, zero.get(), label.get()},
                         out.between);
  check_overflow(out.between, dim);
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor> scatter(Tensor x, Tensor labels, int64_t num_classes) {
  const auto [batch, rows, dim, classes] = check_scatter(x, labels, num_classes);
  AWPF_CHECK(x.is_cpu(), "x must be on the CPU");
  const Points points = as_points(torch::stable::view(x, {batch * rows, dim}));
  ScatterResult out(x, {batch, rows, dim, classes});
  for (int64_t b = 0; b < batch; ++b)
    scatter_one(
        points, b * rows, rows, labels.const_data_ptr<int64_t>() + b * rows, classes,
        {out.within.mutable_data_ptr<double>() + b * dim * dim, out.between.mutable_data_ptr<double>() + b * dim * dim,
         out.means.mutable_data_ptr<double>() + b * classes * dim,
         out.counts.mutable_data_ptr<int64_t>() + b * classes});
  return {out.within, out.between, out.means, out.counts};
}

}  // namespace awpf
