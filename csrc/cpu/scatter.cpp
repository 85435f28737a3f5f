// Class means and scatter matrices of labelled points.
//
// S_W = sum_i (x_i - mu_{y_i})(x_i - mu_{y_i})', S_B = sum_c n_c (mu_c - mu)(mu_c - mu)'; counts, means in the same
// call. FLOPs: n d^2 (the lower triangle), bytes: the points twice. Memory: a few accumulators of d x d. Tricks: the
// class mean is subtracted while a slice of points is packed, so that no centred copy exists; partial products of a
// slice are exact to fp32 and added up in double, chunk by chunk in a fixed order.
#include "../common/scatter.h"

#include <algorithm>
#include <cmath>

#include "../common/ops.h"
#include "pooled.h"

namespace awpf {
namespace {

constexpr int64_t kSlice = 256;        // points packed at a time
constexpr int64_t kPanel = 512;        // features of a panel of rows of the result
constexpr int64_t kFeatureSlice = 64;  // features whose means one task adds up
constexpr int64_t kAccumulatorBytes = int64_t(96) << 20;

// What is multiplied: rows of `from`, each less the centre its label names.
struct Centred {
  const void* from;
  Element element;
  int64_t element_bytes, rows, dim;
  const double* centres;
  const int64_t* labels;
};

// The chunks the rows are cut into: enough to keep a few threads busy, few enough to hold an accumulator each. A
// function of the sizes alone, so that the result does not depend on the number of threads.
int64_t chunk_count(int64_t rows, int64_t dim) {
  const int64_t affordable = std::max<int64_t>(1, kAccumulatorBytes / (dim * dim * int64_t(sizeof(double))));
  return std::max<int64_t>(1, std::min<int64_t>({ceil_div(rows, 2 * kSlice), affordable, 16}));
}

template <class T>
void add_panel(const Centred& x, int64_t begin, int64_t end, int64_t panel_begin, int64_t panel_end, double* sums,
               T* slice, T* a, T* b, T* product) {
  const auto& loops = hot<T>();
  const int64_t width = round_up(panel_end, loops.columns), height = round_up(panel_end - panel_begin, loops.rows);
  for (int64_t row = begin; row < end; row += kSlice) {
    const int64_t count = std::min(kSlice, end - row);
    const char* from = static_cast<const char*>(x.from) + row * x.dim * x.element_bytes;
    loops.centre_by_label(slice, x.dim, from, x.element, x.dim, count, panel_end, x.centres, x.dim, x.labels + row);
    loops.pack_columns_a(a, slice + panel_begin, x.dim, panel_end - panel_begin, count);
    loops.pack_columns_b(b, slice, x.dim, panel_end, count);
    loops.multiply(a, b, product, width, height / loops.rows, width / loops.columns, count, false, panel_begin);
    for (int64_t r = panel_begin; r < panel_end; ++r)
      loops.add_block(sums + r * x.dim, x.dim, product + (r - panel_begin) * width, width, 1, r + 1);
  }
}

// result (dim x dim) = sum of outer products of the centred rows, both triangles.
template <class T>
void outer_products(const Centred& x, double* result) {
  const auto& loops = hot<T>();
  const int64_t dim = x.dim, area = dim * dim;
  const int64_t chunks = chunk_count(x.rows, dim), panels = ceil_div(dim, kPanel);
  const int64_t per_chunk = round_up(ceil_div(x.rows, chunks), kSlice);
  const int64_t tasks = chunks * panels, workers = workers_for(tasks);
  const int64_t width = round_up(dim, loops.columns), height = round_up(std::min(dim, kPanel), loops.rows);
  Buffer<double> sums(chunks * area);
  Buffer<T> slice(workers * kSlice * dim), a(workers * kSlice * height), b(workers * kSlice * width),
      product(workers * height * width);
  for_each_task(tasks, [&](int64_t task, int64_t worker) {
    const int64_t chunk = task / panels, panel = panels - 1 - task % panels;  // the widest panel first
    const int64_t panel_begin = panel * kPanel, panel_end = std::min(panel_begin + kPanel, dim);
    double* mine = sums.get() + chunk * area;
    std::fill(mine + panel_begin * dim, mine + panel_end * dim, 0.0);
    add_panel<T>(x, chunk * per_chunk, std::min((chunk + 1) * per_chunk, x.rows), panel_begin, panel_end, mine,
                 slice.get() + worker * kSlice * dim, a.get() + worker * kSlice * height,
                 b.get() + worker * kSlice * width, product.get() + worker * height * width);
  });
  for_each_task(dim, [&](int64_t r, int64_t) {
    for (int64_t k = 0; k <= r; ++k) {
      double sum = 0;
      for (int64_t chunk = 0; chunk < chunks; ++chunk) sum += sums[chunk * area + r * dim + k];
      result[r * dim + k] = result[k * dim + r] = sum;
    }
  });
}

// Sums of the rows of each class in double, a slice of the features a task, rows in order.
void class_sums(const Points& x, int64_t first_row, int64_t rows, const int64_t* labels, int64_t classes,
                double* sums) {
  std::fill(sums, sums + classes * x.dim, 0.0);
  for_each_task(ceil_div(x.dim, kFeatureSlice), [&](int64_t t, int64_t) {
    const int64_t begin = t * kFeatureSlice, count = std::min(kFeatureSlice, x.dim - begin);
    hot_loops().add_rows_by_label(sums + begin, x.dim,
                                  static_cast<const char*>(x.row(first_row)) + begin * x.element_bytes, x.element,
                                  x.dim, rows, count, labels);
  });
}

struct Result {
  double *within, *between, *means;
  int64_t* counts;
};

void scatter_one(const Points& x, int64_t first_row, int64_t rows, const int64_t* labels, int64_t classes,
                 const Result& out) {
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
      AWPF_CHECK(std::isfinite(value), "x: a row of class ", c, " holds a NaN or an infinity");
      mean[k] += value;
      if (out.counts[c] > 0) value /= double(out.counts[c]);
    }
  for (double& value : mean) value /= double(std::max<int64_t>(rows, 1));

  const Centred points{x.row(first_row), x.element, x.element_bytes, rows, dim, out.means, labels};
  if (x.element == Element::f64)
    outer_products<double>(points, out.within);
  else
    outer_products<float>(points, out.within);

  // sqrt(n_c) (mu_c - mu), a row a class.
  Buffer<double> spread(classes * dim), zero(dim);
  Buffer<int64_t> nobody(classes);
  std::fill(zero.get(), zero.get() + dim, 0.0);
  std::fill(nobody.get(), nobody.get() + classes, int64_t(0));
  for (int64_t c = 0; c < classes; ++c)
    for (int64_t k = 0; k < dim; ++k)
      spread[c * dim + k] =
          out.counts[c] > 0 ? std::sqrt(double(out.counts[c])) * (out.means[c * dim + k] - mean[k]) : 0;
  outer_products<double>({spread.get(), Element::f64, 8, classes, dim, zero.get(), nobody.get()}, out.between);
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
