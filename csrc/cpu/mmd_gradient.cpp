// The gradient of a weighted sum of kernel block sums, together with the sums themselves.
//
// With P_ij = c_gh mean_s 2 gamma_s k_s(z_i, z_j): dz_i = sum_j P_ij z_j - (sum_j P_ij) z_i, P a block at a time.
// FLOPs: 3 n^2 d: the triangle of inner products once, and every block of P used twice, as P for its rows and as P' for
// its columns. Memory: three packed copies of the points and the gradient, O(n d).
// Trick: panels are paired as teams in a tournament. In a round every panel plays once, so that its gradient has one
// writer; rounds follow each other, so that the order of additions is fixed. No atomics, no copies to merge.
#include "../common/ops.h"
#include "request.h"

namespace awpf {
namespace {

int64_t common_multiple(int64_t a, int64_t b) {
  int64_t multiple = a;
  while (multiple % b != 0) multiple += a;
  return multiple;
}

// A panel serves as rows and as columns: whole strips of both kinds.
template <class T>
int64_t panel_size() {
  return round_up(sizeof(T) == 4 ? 224 : 112, common_multiple(hot<T>().rows, hot<T>().columns));
}

// One side of one problem: its points as second operand of P . Z (features in strips), and what they receive.
template <class T>
struct Side {
  const Pool* pool = nullptr;
  const Packed<T>* packed = nullptr;
  int64_t problem = 0, padded_dim = 0;
  Buffer<T> spread, received;
  Buffer<double> weight;  // sum_j P_ij

  void allocate(int64_t dim) {
    padded_dim = round_up(dim, hot<T>().columns);
    const int64_t rows = panels() * panel_size<T>();
    spread = Buffer<T>(rows * padded_dim);
    received = Buffer<T>(rows * padded_dim);
    weight = Buffer<double>(rows);
  }
  int64_t panels() const { return ceil_div(pool->size, panel_size<T>()); }
  int64_t begin(int64_t panel) const { return panel * panel_size<T>(); }
  int64_t end(int64_t panel) const { return std::min((panel + 1) * panel_size<T>(), pool->size); }
};

// Rows of `side` as they were packed: centred and scaled.
template <class T>
void centred_rows(const Request& request, const Side<T>& side, int64_t begin, int64_t end, T* to) {
  const int64_t dim = request.points.dim;
  double half_norm[512];
  side.pool->for_runs(begin, end, [&](int64_t first, int64_t place, int64_t count) {
    hot<T>().centre_rows(to + (place - begin) * dim, dim, request.points.row(first), request.points.element, dim, count,
                         dim, request.frames[side.problem].centre.data(), request.mixtures[side.problem].scale(),
                         half_norm);
  });
}

struct Match {
  std::size_t wave_index;
  int64_t row_panel, column_panel;
};

// The rounds of all problems of a wave, side by side: round k of each problem is played in round k of the wave.
using Rounds = std::vector<std::vector<Match>>;

void add_tournament(Rounds& rounds, std::size_t wave_index, int64_t panels) {
  // Circle method: with an even number of seats one stays and the others turn; an odd panel out sits alone. The first
  // round is every panel against itself.
  const int64_t seats = panels + panels % 2;
  rounds.resize(std::max(rounds.size(), std::size_t(std::max<int64_t>(1, seats))));
  for (int64_t i = 0; i < panels; ++i) rounds[0].push_back({wave_index, i, i});
  for (int64_t round = 1; round < seats; ++round)
    for (int64_t k = 0; k < seats / 2; ++k) {
      const int64_t left = k == 0 ? seats - 1 : (round + k) % (seats - 1);
      const int64_t right = (round + seats - 1 - k) % (seats - 1);
      if (left < panels && right < panels)
        rounds[round].push_back({wave_index, std::max(left, right), std::min(left, right)});
    }
}

void add_rectangle(Rounds& rounds, std::size_t wave_index, int64_t row_panels, int64_t column_panels) {
  const int64_t count = std::max(row_panels, column_panels);
  if (row_panels == 0 || column_panels == 0) return;
  rounds.resize(std::max(rounds.size(), std::size_t(count)));
  for (int64_t round = 0; round < count; ++round)
    for (int64_t k = 0; k < count; ++k)
      if (k < row_panels && (k + round) % count < column_panels)
        rounds[round].push_back({wave_index, k, (k + round) % count});
}

template <class T>
struct MatchScratch {
  Buffer<T> values{panel_size<T>() * stride()};
  Buffer<T> operand{panel_size<T>() * panel_size<T>()};
  Buffer<double> column_weight{panel_size<T>()};

  static int64_t stride() { return panel_size<T>() + kAlignment / int64_t(sizeof(T)); }
};

// coefficient(g, h): what the kernel of a pair in groups g and h is multiplied with.
template <class T, class F>
void play(const Wave<T>& wave, const Depth& depth, Side<T>& rows, Side<T>& columns, const BlockTask& task,
          bool on_diagonal, const F& coefficient, MatchScratch<T>& scratch, double* partial) {
  const auto& loops = hot<T>();
  const Block& block = task.block;
  const int64_t height = block.row_end - block.row_begin, width = block.column_end - block.column_begin;
  const int64_t stride = MatchScratch<T>::stride(), dim_strips = rows.padded_dim / loops.columns;
  std::fill(partial + task.slot, partial + task.slot + task.slots(), 0.0);
  bool needed = false;
  for_each_cell(task, *rows.pool, *columns.pool,
                [&](int64_t g, int64_t h, const Cell&) { needed = needed || coefficient(g, h) != 0; });
  if (!needed) return;

  const GramBlock<T> gram =
      gram_block<T>(*rows.packed, *columns.packed, depth, block, kNoDiagonal, scratch.values.get(), stride);
  const Keep keep = on_diagonal ? Keep::off_diagonal : Keep::all;
  for_each_cell(task, *rows.pool, *columns.pool, [&](int64_t g, int64_t h, const Cell& cell) {
    partial[task.slot_of(g, h)] = loops.rbf_values(gram, cell, wave.mixtures[task.wave_index].view(),
                                                   T(coefficient(g, h)), keep, rows.weight.get() + block.row_begin);
  });
  loops.pack_rows_a(scratch.operand.get(), gram.values, stride, height, width);
  loops.multiply(scratch.operand.get(), columns.spread.get() + block.column_begin * columns.padded_dim,
                 rows.received.get() + block.row_begin * rows.padded_dim, rows.padded_dim, ceil_div(height, loops.rows),
                 dim_strips, width, true, kNoDiagonal);
  if (on_diagonal) return;
  std::fill(scratch.column_weight.get(), scratch.column_weight.get() + width, 0.0);
  for (int64_t i = 0; i < height; ++i)
    loops.add_block(scratch.column_weight.get(), width, gram.values + i * stride, stride, 1, width);
  for (int64_t j = 0; j < width; ++j) columns.weight[block.column_begin + j] += scratch.column_weight[j];
  loops.pack_columns_a(scratch.operand.get(), gram.values, stride, width, height);
  loops.multiply(scratch.operand.get(), rows.spread.get() + block.row_begin * rows.padded_dim,
                 columns.received.get() + block.column_begin * columns.padded_dim, columns.padded_dim,
                 ceil_div(width, loops.rows), dim_strips, height, true, kNoDiagonal);
}

template <class T>
void gradient_wave(const Request& request, const std::vector<int64_t>& problems, const double* coefficients,
                   char* gradient, Element gradient_element, int64_t gradient_bytes, double* sums) {
  const auto& loops = hot<T>();
  const Depth depth(request.points.dim);
  const int64_t dim = depth.total;
  const Wave<T> wave = pack_wave<T>(request, problems, depth);
  const int64_t row_groups = request.row_groups(), column_groups = request.column_groups();
  const int64_t sides_each = request.symmetric() ? 1 : 2;

  std::vector<Side<T>> sides(problems.size() * sides_each);
  struct PanelTask {
    Side<T>* side;
    int64_t panel;
  };
  std::vector<PanelTask> panels;
  Rounds rounds;
  for (std::size_t w = 0; w < problems.size(); ++w) {
    for (int64_t k = 0; k < sides_each; ++k) {
      Side<T>& side = sides[w * sides_each + k];
      side.problem = problems[w];
      side.pool = k == 0 ? &request.rows[problems[w]] : &request.columns[problems[w]];
      side.packed = k == 0 ? &wave.rows[w] : &wave.columns[w];
      side.allocate(dim);
      for (int64_t panel = 0; panel < side.panels(); ++panel) panels.push_back({&side, panel});
    }
    if (request.symmetric())
      add_tournament(rounds, w, sides[w].panels());
    else
      add_rectangle(rounds, w, sides[2 * w].panels(), sides[2 * w + 1].panels());
  }

  const int64_t workers = workers_for(int64_t(panels.size()));
  Buffer<T> centred(workers * panel_size<T>() * dim);
  for_each_task(int64_t(panels.size()), [&](int64_t t, int64_t worker) {
    Side<T>& side = *panels[t].side;
    const int64_t begin = side.begin(panels[t].panel), end = side.end(panels[t].panel);
    T* rows = centred.get() + worker * panel_size<T>() * dim;
    centred_rows(request, side, begin, end, rows);
    loops.pack_columns_b(side.spread.get() + begin * side.padded_dim, rows, dim, dim, end - begin);
    const int64_t last = begin + panel_size<T>();
    std::fill(side.received.get() + begin * side.padded_dim, side.received.get() + last * side.padded_dim, T(0));
    std::fill(side.weight.get() + begin, side.weight.get() + last, 0.0);
  });

  std::vector<MatchScratch<T>> scratch(workers);
  for (const std::vector<Match>& round : rounds) {
    std::vector<BlockTask> tasks;
    int64_t slots = 0;
    for (const Match& match : round) {
      const Side<T>&rows = sides[match.wave_index * sides_each],
            &columns = sides[(match.wave_index + 1) * sides_each - 1];
      const Block block{rows.begin(match.row_panel), rows.end(match.row_panel), columns.begin(match.column_panel),
                        columns.end(match.column_panel)};
      tasks.push_back(block_task(match.wave_index, *rows.pool, *columns.pool, block, slots));
      slots += tasks.back().slots();
    }
    Buffer<double> partial(slots);
    for_each_task(int64_t(tasks.size()), [&](int64_t t, int64_t worker) {
      const BlockTask& task = tasks[t];
      const double* c = coefficients + problems[task.wave_index] * row_groups * column_groups;
      // A symmetric sum holds every pair twice, as (i, j) and as (j, i).
      const auto coefficient = [&](int64_t g, int64_t h) {
        return request.symmetric() ? c[g * column_groups + h] + c[h * column_groups + g] : c[g * column_groups + h];
      };
      play(wave, depth, sides[task.wave_index * sides_each], sides[(task.wave_index + 1) * sides_each - 1], task,
           request.symmetric() && round[t].row_panel == round[t].column_panel, coefficient, scratch[worker],
           partial.get());
    });
    if (sums == nullptr) continue;
    for (std::size_t t = 0; t < tasks.size(); ++t) {
      const BlockTask& task = tasks[t];
      const bool mirrored = request.symmetric() && round[t].row_panel != round[t].column_panel;
      double* out = sums + problems[task.wave_index] * row_groups * column_groups;
      const double kernels = request.mixtures[problems[task.wave_index]].count();
      for (int64_t g = task.first_row_group; g < task.first_row_group + task.row_groups; ++g)
        for (int64_t h = task.first_column_group; h < task.first_column_group + task.column_groups; ++h) {
          const double sum = partial[task.slot_of(g, h)] / kernels;
          out[g * column_groups + h] += sum;
          if (mirrored) out[h * column_groups + g] += sum;
        }
    }
  }

  for_each_task(int64_t(panels.size()), [&](int64_t t, int64_t worker) {
    const Side<T>& side = *panels[t].side;
    const int64_t begin = side.begin(panels[t].panel), end = side.end(panels[t].panel);
    T* rows = centred.get() + worker * panel_size<T>() * dim;
    centred_rows(request, side, begin, end, rows);
    const double unscale = 1.0 / request.mixtures[side.problem].scale();
    std::vector<double> values(dim);
    side.pool->for_runs(begin, end, [&](int64_t first, int64_t place, int64_t count) {
      for (int64_t r = 0; r < count; ++r) {
        const T* received = side.received.get() + (place + r) * side.padded_dim;
        const T* row = rows + (place + r - begin) * dim;
        const double weight = side.weight[place + r];
        for (int64_t k = 0; k < dim; ++k) values[k] = (double(received[k]) - weight * double(row[k])) * unscale;
        hot_loops().narrow_row(gradient + (first + r) * dim * gradient_bytes, gradient_element, values.data(), dim);
      }
    });
  });
}

void check_disjoint(const Request& request) {
  std::vector<std::pair<int64_t, int64_t>> taken;
  for (const auto* pools : {&request.rows, &request.columns})
    for (const Pool& pool : *pools)
      for (const Group& group : pool.groups)
        if (group.length > 0) taken.emplace_back(group.begin, group.begin + group.length);
  std::sort(taken.begin(), taken.end());
  for (std::size_t i = 1; i < taken.size(); ++i)
    AWPF_CHECK(taken[i - 1].second <= taken[i].first, "rows: groups that share rows of z have no gradient");
}

void check_coefficients(const Tensor& coefficients, const Request& request, const char* name) {
  check_cpu_contiguous(coefficients, name);
  check_type(coefficients, ScalarType::Double, name, "float64");
  AWPF_CHECK(coefficients.dim() == 3 && coefficients.size(0) == request.problems() &&
                 (request.problems() == 0 ||
                  (coefficients.size(1) == request.row_groups() && coefficients.size(2) == request.column_groups())),
             name, " must have shape (problems, row groups, column groups)");
}

void run(const Request& request, const Tensor& coefficients, const Tensor& gradient, double* sums) {
  const Points out = as_points(gradient);
  char* const data = static_cast<char*>(gradient.mutable_data_ptr());
  const double* c = coefficients.const_data_ptr<double>();
  for_each_wave<float>(request, [&](const auto& problems) {
    gradient_wave<float>(request, problems, c, data, out.element, out.element_bytes, sums);
  });
  for_each_wave<double>(request, [&](const auto& problems) {
    gradient_wave<double>(request, problems, c, data, out.element, out.element_bytes, sums);
  });
}

}  // namespace

Tensor rbf_sums_backward(Tensor grad, Tensor z, Tensor rows, std::optional<Tensor> columns, Tensor gamma,
                         std::optional<Tensor> centre, bool) {
  const Request request = read_request(z, rows, columns, gamma, centre);
  check_disjoint(request);
  check_coefficients(grad, request, "grad");
  Tensor gradient = torch::stable::new_zeros(z, {z.size(0), z.size(1)});
  run(request, grad, gradient, nullptr);
  return gradient;
}

std::tuple<Tensor, Tensor> rbf_sums_and_gradient(Tensor z, Tensor rows, Tensor gamma, Tensor coefficients, bool) {
  const Request request = read_request(z, rows, std::nullopt, gamma, std::nullopt);
  check_disjoint(request);
  check_coefficients(coefficients, request, "coefficients");
  const bool in_double = request.points.element == Element::f64;
  Tensor gradient =
      torch::stable::new_zeros(z, {z.size(0), z.size(1)}, in_double ? ScalarType::Double : ScalarType::Float);
  Tensor sums = torch::stable::new_zeros(coefficients, {rows.size(0), rows.size(1), rows.size(1)});
  double* out = sums.mutable_data_ptr<double>();
  run(request, coefficients, gradient, out);
  for (int64_t p = 0; p < request.problems(); ++p)
    for (int64_t g = 0; g < request.row_groups(); ++g)
      out[(p * request.row_groups() + g) * request.row_groups() + g] += double(request.rows[p].groups[g].length);
  return {sums, gradient};
}

}  // namespace awpf
