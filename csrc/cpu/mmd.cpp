// Block sums of a mixture of Gaussian kernels, and their gradient.
//
// Computes, for every problem, S[g, h] = sum over rows i of group g, j of group h of mean_s exp(-gamma_s |z_i - z_j|^2).
// FLOPs: n^2 d for n pooled rows (the lower triangle only; 2 n m d for rows against other columns); the gradient 4 n^2 d.
// Memory: two packed copies of the points, O(n d), and one block of inner products a thread; never an n x n matrix.
// Trick: inner products of a block by the packed product, then distance, exponential and sum while it is in cache.
#include <algorithm>
#include <cmath>

#include "../common/precision.h"
#include "ops.h"
#include "pooled.h"

namespace awpf {
namespace {

// Packed copies alive at a time, so that thousands of small problems take no more memory than a few.
constexpr int64_t kWaveBytes = int64_t(96) << 20;

struct Request {
  Points points;
  std::vector<Pool> rows, columns;  // no columns: the rows against themselves
  std::vector<Kernels> kernels;
  std::vector<Frame> frames;

  bool symmetric() const { return columns.empty(); }
  const Pool& columns_of(int64_t p) const { return symmetric() ? rows[p] : columns[p]; }
  int64_t problems() const { return int64_t(rows.size()); }
  int64_t pooled_rows(int64_t p) const { return rows[p].size + (symmetric() ? 0 : columns[p].size); }
};

Request read_request(const Tensor& z, const Tensor& rows, const std::optional<Tensor>& columns, const Tensor& gamma,
                     const std::optional<Tensor>& centre) {
  Request request{as_points(z), {}, {}, {}, {}};
  request.rows = read_pools(rows, request.points, "rows");
  const int64_t problems = request.problems();
  if (columns.has_value()) {
    request.columns = read_pools(*columns, request.points, "columns");
    AWPF_CHECK(int64_t(request.columns.size()) == problems, "columns must have as many problems as rows");
  }
  check_cpu_contiguous(gamma, "gamma");
  check_type(gamma, ScalarType::Double, "gamma", "float64");
  AWPF_CHECK(gamma.dim() == 2 && gamma.size(0) == problems, "gamma must have shape (problems, kernels)");
  for (int64_t p = 0; p < problems; ++p)
    request.kernels.push_back(read_kernels(gamma.const_data_ptr<double>() + p * gamma.size(1), gamma.size(1)));
  const double* given = nullptr;
  if (centre.has_value()) {
    check_cpu_contiguous(*centre, "centre");
    check_type(*centre, ScalarType::Double, "centre", "float64");
    AWPF_CHECK(centre->dim() == 2 && centre->size(0) == problems && centre->size(1) == request.points.dim,
               "centre must have shape (problems, d)");
    given = centre->const_data_ptr<double>();
  }
  request.frames = find_frames(request.points, request.rows, request.columns, given);
  return request;
}

bool in_double(const Request& request, int64_t p) {
  if (request.points.element == Element::f64) return true;
  return !float_is_enough(request.kernels[p].gamma.back() * request.frames[p].mean_square, request.pooled_rows(p));
}

// The problems [begin, end) of `which`, packed.
template <class T>
struct Wave {
  struct Side {
    Packed<T> packed;
    const Pool* pool;
  };
  std::vector<int64_t> problem;
  std::vector<Packed<T>> rows, columns;

  const Packed<T>& columns_of(std::size_t w) const { return columns.empty() ? rows[w] : columns[w]; }
};

template <class T>
Wave<T> pack_wave(const Request& request, const std::vector<int64_t>& problems, const Depth& depth) {
  Wave<T> wave;
  wave.problem = problems;
  struct Task {
    Packed<T>* to;
    const Pool* pool;
    int64_t problem, begin, end;
  };
  std::vector<Task> tasks;
  wave.rows.resize(problems.size());
  if (!request.symmetric()) wave.columns.resize(problems.size());
  for (std::size_t w = 0; w < problems.size(); ++w)
    for (int side = 0; side < (request.symmetric() ? 1 : 2); ++side) {
      const Pool& pool = side == 0 ? request.rows[problems[w]] : request.columns[problems[w]];
      Packed<T>& packed = side == 0 ? wave.rows[w] : wave.columns[w];
      packed.allocate(pool.size, depth.total, true, true);
      for (int64_t begin = 0; begin < pool.size; begin += packing_chunk<T>())
        tasks.push_back({&packed, &pool, problems[w], begin, std::min(begin + packing_chunk<T>(), pool.size)});
    }
  const int64_t scratch_size = packing_chunk<T>() * depth.total;
  Buffer<T> scratch(workers_for(int64_t(tasks.size())) * scratch_size);
  for_each_task(int64_t(tasks.size()), [&](int64_t t, int64_t worker) {
    const Task& task = tasks[t];
    task.to->pack(request.points, *task.pool, request.frames[task.problem], request.kernels[task.problem].scale(), depth,
                  task.begin, task.end, scratch.get() + worker * scratch_size);
  });
  return wave;
}

// Calls f(problems of the wave) for all problems computed in T, a bounded amount of packed memory at a time.
template <class T, class F>
void for_each_wave(const Request& request, const F& f) {
  std::vector<int64_t> problems;
  int64_t bytes = 0;
  for (int64_t p = 0; p < request.problems(); ++p) {
    if (in_double(request, p) != (sizeof(T) == 8)) continue;
    const int64_t more = 2 * request.pooled_rows(p) * request.points.dim * int64_t(sizeof(T));
    if (!problems.empty() && bytes + more > kWaveBytes) {
      f(problems);
      problems.clear();
      bytes = 0;
    }
    problems.push_back(p);
    bytes += more;
  }
  if (!problems.empty()) f(problems);
}

// ---- forward ------------------------------------------------------------------------------------------------------

struct SumTask {
  std::size_t wave_index;
  Block block;
  int64_t first_row_group, row_groups, first_column_group, column_groups;
  int64_t slot;
};

// Calls f(g, h, cell) for the cells of a block: where a group of rows meets a group of columns.
template <class F>
void for_each_cell(const SumTask& task, const Pool& rows, const Pool& columns, const F& f) {
  for (int64_t g = task.first_row_group; g < task.first_row_group + task.row_groups; ++g)
    for (int64_t h = task.first_column_group; h < task.first_column_group + task.column_groups; ++h) {
      const Group &row = rows.groups[g], &column = columns.groups[h];
      Cell cell{std::max(row.start, task.block.row_begin) - task.block.row_begin,
                std::min(row.start + row.length, task.block.row_end) - task.block.row_begin,
                std::max(column.start, task.block.column_begin) - task.block.column_begin,
                std::min(column.start + column.length, task.block.column_end) - task.block.column_begin};
      if (cell.row_begin < cell.row_end && cell.column_begin < cell.column_end) f(g, h, cell);
    }
}

SumTask sum_task(std::size_t wave_index, const Pool& rows, const Pool& columns, const Block& block, int64_t slot) {
  const int64_t g = rows.group_at(block.row_begin), h = columns.group_at(block.column_begin);
  return {wave_index, block, g, rows.group_at(block.row_end - 1) - g + 1,
          h,          columns.group_at(block.column_end - 1) - h + 1,      slot};
}

template <class T>
void sum_wave(const Request& request, const std::vector<int64_t>& problems, double* sums) {
  const Depth depth(request.points.dim);
  const Wave<T> wave = pack_wave<T>(request, problems, depth);
  std::vector<MixtureData<T>> mixtures;
  for (const int64_t p : problems) mixtures.emplace_back(request.kernels[p]);

  std::vector<SumTask> tasks;
  int64_t slots = 0;
  for (std::size_t w = 0; w < problems.size(); ++w) {
    const Pool &rows = request.rows[problems[w]], &columns = request.columns_of(problems[w]);
    for (int64_t i = 0; i < rows.size; i += block_rows<T>()) {
      const int64_t row_end = std::min(i + block_rows<T>(), rows.size);
      const int64_t last = request.symmetric() ? row_end : columns.size;
      for (int64_t j = 0; j < last; j += block_columns<T>()) {
        const Block block{i, row_end, j, std::min(j + block_columns<T>(), columns.size)};
        tasks.push_back(sum_task(w, rows, columns, block, slots));
        slots += tasks.back().row_groups * tasks.back().column_groups;
      }
    }
  }

  Buffer<double> partial(slots);
  const int64_t count = int64_t(tasks.size()), area = block_rows<T>() * block_stride<T>();
  Buffer<T> values(workers_for(count) * area);
  const Keep keep = request.symmetric() ? Keep::below_diagonal : Keep::all;
  for_each_task(count, [&](int64_t t, int64_t worker) {
    const SumTask& task = tasks[t];
    const int64_t p = problems[task.wave_index];
    std::fill(partial.get() + task.slot, partial.get() + task.slot + task.row_groups * task.column_groups, 0.0);
    const int64_t diagonal = request.symmetric() ? task.block.row_begin - task.block.column_begin : kNoDiagonal;
    const GramBlock<T> gram = gram_block<T>(wave.rows[task.wave_index], wave.columns_of(task.wave_index), depth,
                                            task.block, diagonal, values.get() + worker * area, block_stride<T>());
    for_each_cell(task, request.rows[p], request.columns_of(p), [&](int64_t g, int64_t h, const Cell& cell) {
      partial[task.slot + (g - task.first_row_group) * task.column_groups + (h - task.first_column_group)] =
          hot<T>().rbf_sum(gram, cell, mixtures[task.wave_index].view, keep);
    });
  });

  // In the order of the tasks, whoever ran them.
  for (const SumTask& task : tasks) {
    const int64_t p = problems[task.wave_index];
    const int64_t groups = int64_t(request.rows[p].groups.size());
    const int64_t column_groups = int64_t(request.columns_of(p).groups.size());
    const double kernels = double(request.kernels[p].gamma.size());
    double* out = sums + p * groups * column_groups;
    for (int64_t g = 0; g < task.row_groups; ++g)
      for (int64_t h = 0; h < task.column_groups; ++h)
        out[(task.first_row_group + g) * column_groups + task.first_column_group + h] +=
            partial[task.slot + g * task.column_groups + h] / kernels;
  }
}

// The strict lower triangle was summed: mirror it, and add the diagonal, where every kernel is 1.
void complete_symmetric(const Request& request, double* sums) {
  for (int64_t p = 0; p < request.problems(); ++p) {
    const int64_t groups = int64_t(request.rows[p].groups.size());
    double* out = sums + p * groups * groups;
    for (int64_t g = 0; g < groups; ++g) {
      for (int64_t h = 0; h < g; ++h) out[h * groups + g] = out[g * groups + h];
      out[g * groups + g] = 2 * out[g * groups + g] + double(request.rows[p].groups[g].length);
    }
  }
}

// ---- backward -----------------------------------------------------------------------------------------------------

void check_disjoint(const Request& request) {
  std::vector<std::pair<int64_t, int64_t>> taken;
  for (const auto* pools : {&request.rows, &request.columns})
    for (const Pool& pool : *pools)
      for (const Group& group : pool.groups)
        if (group.length > 0) taken.emplace_back(group.begin, group.begin + group.length);
  std::sort(taken.begin(), taken.end());
  for (std::size_t i = 1; i < taken.size(); ++i)
    AWPF_CHECK(taken[i - 1].second <= taken[i].first, "groups share rows of z: no gradient");
}

// One direction of a gradient: what the columns do to the rows. coefficient(g, h) weighs the pair of groups.
struct Direction {
  const std::vector<Pool>*rows, *columns;
  bool transposed;  // the coefficients are stored columns first
};

struct GradientTask {
  std::size_t wave_index;
  bool swapped;
  int64_t row_begin, row_end;
};

template <class T>
struct GradientScratch {
  Buffer<T> values, packed, gradient, centred;
  std::vector<double> row_sums;

  GradientScratch(int64_t dim, int64_t padded_dim)
      : values(block_rows<T>() * block_stride<T>()),
        packed(round_up(block_rows<T>(), hot<T>().rows) * block_columns<T>()),
        gradient(block_rows<T>() * padded_dim),
        centred(std::max(block_rows<T>(), block_columns<T>()) * dim),
        row_sums(block_rows<T>()) {}
};

// Centred columns with the feature index in strips: the second operand of P . Z.
template <class T>
struct Spread {
  Buffer<T> data;
  int64_t padded_dim = 0;

  const T* block(int64_t column_begin) const { return data.get() + column_begin * padded_dim; }
};

template <class T>
void gradient_wave(const Request& request, const std::vector<int64_t>& problems, const double* coefficients,
                   const std::function<void(int64_t, const double*)>& write_row) {
  const Depth depth(request.points.dim);
  const int64_t dim = depth.total;
  const auto& loops = hot<T>();
  const int64_t padded_dim = round_up(dim, loops.columns);
  const Wave<T> wave = pack_wave<T>(request, problems, depth);
  std::vector<MixtureData<T>> mixtures;
  for (const int64_t p : problems) mixtures.emplace_back(request.kernels[p]);

  // spread[2 w + side]: side 0 the rows, 1 the columns.
  std::vector<Spread<T>> spread(2 * problems.size());
  struct SpreadTask {
    std::size_t index;
    int64_t begin, end;
  };
  std::vector<SpreadTask> spread_tasks;
  std::vector<GradientTask> tasks;
  const auto pool_of = [&](std::size_t w, bool columns) -> const Pool& {
    return columns ? request.columns_of(problems[w]) : request.rows[problems[w]];
  };
  for (std::size_t w = 0; w < problems.size(); ++w)
    for (int side = 0; side < (request.symmetric() ? 1 : 2); ++side) {
      const Pool& pool = pool_of(w, side == 1);
      spread[2 * w + side] = {Buffer<T>(pool.size * padded_dim), padded_dim};
      for (int64_t j = 0; j < pool.size; j += block_columns<T>())
        spread_tasks.push_back({2 * w + side, j, std::min(j + block_columns<T>(), pool.size)});
      for (int64_t i = 0; i < pool.size; i += block_rows<T>())
        tasks.push_back({w, side == 1, i, std::min(i + block_rows<T>(), pool.size)});
    }
  std::vector<GradientScratch<T>> scratch;
  const int64_t workers = workers_for(std::max(int64_t(tasks.size()), int64_t(spread_tasks.size())));
  for (int64_t worker = 0; worker < workers; ++worker) scratch.emplace_back(dim, padded_dim);

  const auto centre = [&](int64_t p, const Pool& pool, int64_t begin, int64_t end, T* to) {
    std::vector<double> half_norm(end - begin);
    pool.for_runs(begin, end, [&](int64_t first, int64_t place, int64_t count) {
      loops.centre_rows(to + (place - begin) * dim, dim, request.points.row(first), request.points.element, dim, count,
                        dim, request.frames[p].centre.data(), request.kernels[p].scale(),
                        half_norm.data() + (place - begin));
    });
  };

  for_each_task(int64_t(spread_tasks.size()), [&](int64_t t, int64_t worker) {
    const SpreadTask& task = spread_tasks[t];
    const std::size_t w = task.index / 2;
    T* rows = scratch[worker].centred.get();
    centre(problems[w], pool_of(w, task.index % 2 == 1), task.begin, task.end, rows);
    loops.pack_columns_b(spread[task.index].data.get() + task.begin * padded_dim, rows, dim, dim,
                         task.end - task.begin);
  });

  for_each_task(int64_t(tasks.size()), [&](int64_t t, int64_t worker) {
    const GradientTask& task = tasks[t];
    const std::size_t w = task.wave_index;
    const int64_t p = problems[w];
    const Pool &pool = pool_of(w, task.swapped), &others = pool_of(w, !task.swapped && !request.symmetric());
    const Packed<T>& rows = task.swapped ? wave.columns[w] : wave.rows[w];
    const Packed<T>& columns = task.swapped ? wave.rows[w] : wave.columns_of(w);
    const Spread<T>& values_of_columns = spread[2 * w + (request.symmetric() || task.swapped ? 0 : 1)];
    const int64_t row_groups = int64_t(request.rows[p].groups.size());
    const int64_t column_groups = int64_t(request.columns_of(p).groups.size());
    const double* c = coefficients + p * row_groups * column_groups;
    // A symmetric sum holds every pair twice, as (i, j) and as (j, i).
    const auto coefficient = [&](int64_t g, int64_t h) {
      if (request.symmetric()) return c[g * column_groups + h] + c[h * column_groups + g];
      return task.swapped ? c[h * column_groups + g] : c[g * column_groups + h];
    };

    GradientScratch<T>& mine = scratch[worker];
    const int64_t count = task.row_end - task.row_begin;
    const int64_t row_strips = ceil_div(count, loops.rows);
    std::fill(mine.row_sums.begin(), mine.row_sums.end(), 0.0);
    bool started = false;
    for (int64_t j = 0; j < others.size; j += block_columns<T>()) {
      const Block block{task.row_begin, task.row_end, j, std::min(j + block_columns<T>(), others.size)};
      const SumTask cells = sum_task(w, pool, others, block, 0);
      bool needed = false;
      for_each_cell(cells, pool, others,
                    [&](int64_t g, int64_t h, const Cell&) { needed = needed || coefficient(g, h) != 0; });
      if (!needed) continue;
      const GramBlock<T> gram =
          gram_block<T>(rows, columns, depth, block, kNoDiagonal, mine.values.get(), block_stride<T>());
      const Keep keep = request.symmetric() ? Keep::off_diagonal : Keep::all;
      for_each_cell(cells, pool, others, [&](int64_t g, int64_t h, const Cell& cell) {
        loops.rbf_values(gram, cell, mixtures[w].view, T(coefficient(g, h)), keep, mine.row_sums.data());
      });
      const int64_t width = block.column_end - block.column_begin;
      loops.pack_rows_a(mine.packed.get(), mine.values.get(), block_stride<T>(), count, width);
      loops.multiply(mine.packed.get(), values_of_columns.block(j), mine.gradient.get(), padded_dim, row_strips,
                     padded_dim / loops.columns, width, started, kNoDiagonal);
      started = true;
    }
    if (!started) return;
    centre(p, pool, task.row_begin, task.row_end, mine.centred.get());
    const double unscale = 1.0 / request.kernels[p].scale();
    std::vector<double> gradient(dim);
    pool.for_runs(task.row_begin, task.row_end, [&](int64_t first, int64_t place, int64_t run) {
      for (int64_t r = 0; r < run; ++r) {
        const int64_t i = place - task.row_begin + r;
        for (int64_t k = 0; k < dim; ++k)
          gradient[k] = (double(mine.gradient[i * padded_dim + k]) -
                         mine.row_sums[i] * double(mine.centred[i * dim + k])) *
                        unscale;
        write_row(first + r, gradient.data());
      }
    });
  });
}

}  // namespace

Tensor rbf_sums(Tensor z, Tensor rows, std::optional<Tensor> columns, Tensor gamma, std::optional<Tensor> centre) {
  const Request request = read_request(z, rows, columns, gamma, centre);
  Tensor sums = torch::stable::new_zeros(
      gamma, {rows.size(0), rows.size(1), columns.has_value() ? columns->size(1) : rows.size(1)}, ScalarType::Double);
  double* out = sums.mutable_data_ptr<double>();
  for_each_wave<float>(request, [&](const auto& problems) { sum_wave<float>(request, problems, out); });
  for_each_wave<double>(request, [&](const auto& problems) { sum_wave<double>(request, problems, out); });
  if (request.symmetric()) complete_symmetric(request, out);
  return sums;
}

Tensor rbf_sums_backward(Tensor grad, Tensor z, Tensor rows, std::optional<Tensor> columns, Tensor gamma,
                         std::optional<Tensor> centre) {
  const Request request = read_request(z, rows, columns, gamma, centre);
  check_disjoint(request);
  check_cpu_contiguous(grad, "grad");
  check_type(grad, ScalarType::Double, "grad", "float64");
  AWPF_CHECK(grad.dim() == 3 && grad.size(0) == rows.size(0) && grad.size(1) == rows.size(1) &&
                 grad.size(2) == (columns.has_value() ? columns->size(1) : rows.size(1)),
             "grad must have the shape of the sums");
  Tensor result = torch::stable::new_zeros(z, {z.size(0), z.size(1)});
  const int64_t dim = z.size(1);
  char* out = static_cast<char*>(result.mutable_data_ptr());
  const Element element = request.points.element;
  const int64_t row_bytes = dim * request.points.element_bytes;
  const auto write_row = [&](int64_t row, const double* values) {
    hot_loops().narrow_row(out + row * row_bytes, element, values, dim);
  };
  const double* coefficients = grad.const_data_ptr<double>();
  for_each_wave<float>(request,
                       [&](const auto& problems) { gradient_wave<float>(request, problems, coefficients, write_row); });
  for_each_wave<double>(
      request, [&](const auto& problems) { gradient_wave<double>(request, problems, coefficients, write_row); });
  return result;
}

}  // namespace awpf
