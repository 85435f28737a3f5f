// The gradient of a weighted sum of kernel block sums, together with the sums themselves.
//
// With P_ij = c_gh mean_s 2 gamma_s k_s(z_i, z_j): dz_i = sum_j P_ij z_j - (sum_j P_ij) z_i. P exists one block at a
// time. FLOPs: 3 n^2 d. The inner products of each pair are computed once, and every block of P is used twice: as P for
// its rows and as P' for its columns. Memory: three packed copies of the points and the gradient, O(n d).
// Trick: the points are cut into panels, and the pairs of panels follow a round-robin schedule (round_robin.h), so that
// the order of additions is fixed without atomics and without copies to merge.
#include <numeric>

#include "common/allocate.h"
#include "common/ops.h"
#include "cpu/mmd/gradient_panels.h"
#include "cpu/parallel.h"

namespace awpf {
namespace {

// Where the gradient is stored: in the layout of z, but in a type of its own.
struct Output {
  char* data;
  ElementType type;
  int64_t element_bytes;
};

// The points [begin, end) of `side`, centred and scaled as they were packed.
template <class T>
void centred_rows(const KernelSumCall& call, const Side<T>& side, int64_t begin, int64_t end, T* to) {
  const int64_t dim = call.points.dim;
  std::vector<double> half_norm(end - begin);  // a result that is not needed here
  side.pooled->for_runs(begin, end, [&](int64_t first, int64_t position, int64_t count) {
    kernels<T>().centre_rows(to + (position - begin) * dim, dim, call.points.row(first), call.points.type, dim, count,
                             dim, call.centerings[side.problem].centre.data(), call.mixtures[side.problem].scale(),
                             half_norm.data());
  });
}

// Phase 1: packs the points as second operand of P . Z and clears what is accumulated. `rows`: one panel per worker.
template <class T>
void prepare_panels(const KernelSumCall& call, const std::vector<PanelTask<T>>& panels, T* rows) {
  const int64_t dim = call.points.dim;
  for_each_task(int64_t(panels.size()), [&](int64_t t, int64_t worker) {
    Side<T>& side = *panels[t].side;
    const int64_t begin = side.begin(panels[t].panel), end = side.end(panels[t].panel);
    T* centred = rows + worker * panel_size<T>() * dim;
    centred_rows(call, side, begin, end, centred);
    kernels<T>().pack_columns_b(side.points.get() + side.points_of(begin), centred, dim, dim, end - begin);
    const int64_t last = begin + panel_size<T>();
    std::fill(side.product.get() + begin * side.padded_dim, side.product.get() + last * side.padded_dim, T(0));
    std::fill(side.row_sums.get() + begin, side.row_sums.get() + last, 0.0);
  });
}

// What one worker needs for a pair of panels.
template <class T>
struct PairScratch {
  Buffer<T> values{panel_size<T>() * stride()};
  Buffer<T> operand{StripLayout<T>(Operand::a, panel_size<T>(), one_block(panel_size<T>())).size()};
  Buffer<double> column_sums{panel_size<T>()};
  std::vector<LostPair> lost;

  static int64_t stride() { return panel_size<T>() + kAlignment / int64_t(sizeof(T)); }
};

// Takes the pairs whose distances were lost out of a block of P, since their pull is lost in (P . Z)_i - (sum_j P_ij)
// z_i, too, and adds it by differences of their rows. Adds what is left to the sums of the rows.
inline void pull_lost_pairs(Side<double>& rows, Side<double>& columns, const Block& block, bool on_diagonal,
                            const GramBlock<double>& gram, const std::vector<LostPair>& lost) {
  const OriginalRows &row_of = rows.packed->original, &column_of = columns.packed->original;
  const Points& points = row_of.points;
  for (const LostPair& pair : lost) {
    double& weight = gram.values[pair.row * gram.stride + pair.column];
    const double factor = weight * row_of.scale;
    weight = 0;
    const int64_t i = block.row_begin + pair.row, j = block.column_begin + pair.column;
    const void *row = row_of.at(i), *column = column_of.at(j);
    kernel_table().add_difference(rows.product.get() + i * rows.padded_dim, column, row, points.type, factor,
                                  points.dim);
    if (on_diagonal) continue;  // where the pair is met the other way round, too
    kernel_table().add_difference(columns.product.get() + j * columns.padded_dim, row, column, points.type, factor,
                                  points.dim);
  }
  for (int64_t i = block.row_begin; i < block.row_end; ++i) {
    const double* values = gram.values + (i - block.row_begin) * gram.stride;
    rows.row_sums[i] += std::accumulate(values, values + (block.column_end - block.column_begin), 0.0);
  }
}

// Phase 2, for one pair of panels: computes their block of P, stores the sums of its kernels in `partial`, and adds its
// products to both sides. coefficient(g, h) is c_gh for the pairs of groups g and h.
template <class T, class F>
void accumulate_pair(const MemberMixture<T>& mixture, const DepthBlocks& depth, Side<T>& rows, Side<T>& columns,
                     const BlockTask& task, bool on_diagonal, const F& coefficient, PairScratch<T>& scratch,
                     double* partial) {
  const auto& table = kernels<T>();
  const Block& block = task.block;
  const int64_t height = block.row_end - block.row_begin, width = block.column_end - block.column_begin;
  const int64_t stride = PairScratch<T>::stride(), dim_strips = rows.padded_dim / table.tile_columns;
  std::fill(partial + task.first_partial, partial + task.first_partial + task.partials(), 0.0);
  bool needed = false;
  for_each_cell(task, *rows.pooled, *columns.pooled,
                [&](int64_t g, int64_t h, const Cell&) { needed = needed || coefficient(g, h) != 0; });
  if (!needed) return;

  // P, in place of the inner products
  const GramBlock<T> gram = gram_block<T>(*rows.packed, *columns.packed, depth, block, kNoDiagonal,
                                          scratch.values.get(), stride, scratch.lost);
  // Not of use where pairs are taken out of P.
  double* const row_sums = scratch.lost.empty() ? rows.row_sums.get() + block.row_begin : scratch.column_sums.get();
  const Keep keep = on_diagonal ? Keep::off_diagonal : Keep::all;
  for_each_cell(task, *rows.pooled, *columns.pooled, [&](int64_t g, int64_t h, const Cell& cell) {
    partial[task.partial_of(g, h)] = mixture.values(gram, cell, T(coefficient(g, h)), keep, row_sums);
  });
  if constexpr (sizeof(T) == sizeof(double))
    if (!scratch.lost.empty()) pull_lost_pairs(rows, columns, block, on_diagonal, gram, scratch.lost);
  // P . Z for the rows
  table.pack_rows_a(scratch.operand.get(), gram.values, stride, height, width);
  table.multiply(scratch.operand.get(), columns.points.get() + columns.points_of(block.column_begin),
                 rows.product.get() + block.row_begin * rows.padded_dim, rows.padded_dim,
                 ceil_div(height, table.tile_rows), dim_strips, width, true, kNoDiagonal);
  if (on_diagonal) return;
  // P' . Z for the columns
  std::fill(scratch.column_sums.get(), scratch.column_sums.get() + width, 0.0);
  for (int64_t i = 0; i < height; ++i)
    table.add_block(scratch.column_sums.get(), width, gram.values + i * stride, stride, 1, width);
  for (int64_t j = 0; j < width; ++j) columns.row_sums[block.column_begin + j] += scratch.column_sums[j];
  table.pack_columns_a(scratch.operand.get(), gram.values, stride, width, height);
  table.multiply(scratch.operand.get(), rows.points.get() + rows.points_of(block.row_begin),
                 columns.product.get() + block.column_begin * columns.padded_dim, columns.padded_dim,
                 ceil_div(width, table.tile_rows), dim_strips, height, true, kNoDiagonal);
}

// Phase 3: adds the partial sums of a round to the sums of the problems, in the order of the pairs.
void add_partials(const KernelSumCall& call, const std::vector<int64_t>& problems, const std::vector<Pair>& round,
                  const std::vector<BlockTask>& tasks, const double* partial, double* sums) {
  const int64_t column_groups = call.column_groups();
  for (std::size_t t = 0; t < tasks.size(); ++t) {
    const BlockTask& task = tasks[t];
    const int64_t p = problems[task.member];
    const bool mirrored = call.symmetric() && round[t].row_panel != round[t].column_panel;
    double* out = sums + p * call.row_groups() * column_groups;
    for (int64_t g = task.first_row_group; g < task.first_row_group + task.row_groups; ++g)
      for (int64_t h = task.first_column_group; h < task.first_column_group + task.column_groups; ++h) {
        const double sum = partial[task.partial_of(g, h)] / call.mixtures[p].count();
        out[g * column_groups + h] += sum;
        if (mirrored) out[h * column_groups + g] += sum;
      }
  }
}

template <class T>
std::vector<BlockTask> list_blocks(const std::vector<Pair>& round, Sides<T>& sides) {
  std::vector<BlockTask> tasks;
  int64_t partials = 0;
  for (const Pair& pair : round) {
    const Side<T>&rows = sides.rows(pair.member), &columns = sides.columns(pair.member);
    const Block block{rows.begin(pair.row_panel), rows.end(pair.row_panel), columns.begin(pair.column_panel),
                      columns.end(pair.column_panel)};
    tasks.push_back(block_task(pair.member, *rows.pooled, *columns.pooled, block, partials));
    partials += tasks.back().partials();
  }
  return tasks;
}

// Phases 2 and 3, round by round. `sums` may be null.
template <class T>
void run_schedule(const KernelSumCall& call, const std::vector<int64_t>& problems, const PackedBatch<T>& batch,
                  const DepthBlocks& depth, const Rounds& rounds, const double* coefficients, int64_t workers,
                  Sides<T>& sides, double* sums) {
  const int64_t row_groups = call.row_groups(), column_groups = call.column_groups();
  std::vector<PairScratch<T>> scratch(workers);
  for (const std::vector<Pair>& round : rounds) {
    const std::vector<BlockTask> tasks = list_blocks(round, sides);
    Buffer<double> partial(tasks.empty() ? 0 : tasks.back().first_partial + tasks.back().partials());
    for_each_task(int64_t(tasks.size()), [&](int64_t t, int64_t worker) {
      const BlockTask& task = tasks[t];
      const double* c = coefficients + problems[task.member] * row_groups * column_groups;
      // A symmetric sum holds every pair twice, as (i, j) and as (j, i).
      const auto coefficient = [&](int64_t g, int64_t h) {
        return call.symmetric() ? c[g * column_groups + h] + c[h * column_groups + g] : c[g * column_groups + h];
      };
      const bool on_diagonal = call.symmetric() && round[t].row_panel == round[t].column_panel;
      accumulate_pair(batch.mixtures[task.member], depth, sides.rows(task.member), sides.columns(task.member), task,
                      on_diagonal, coefficient, scratch[worker], partial.get());
    });
    if (sums != nullptr) add_partials(call, problems, round, tasks, partial.get(), sums);
  }
}

// Phase 4: dz_i = (P . Z)_i - (sum_j P_ij) z_i, in the scale of the points. `rows`: one panel per worker.
template <class T>
void store_gradient(const KernelSumCall& call, const std::vector<PanelTask<T>>& panels, T* rows, const Output& out) {
  const int64_t dim = call.points.dim;
  for_each_task(int64_t(panels.size()), [&](int64_t t, int64_t worker) {
    const Side<T>& side = *panels[t].side;
    const int64_t begin = side.begin(panels[t].panel), end = side.end(panels[t].panel);
    T* centred = rows + worker * panel_size<T>() * dim;
    centred_rows(call, side, begin, end, centred);
    const KernelMixture& mixture = call.mixtures[side.problem];
    const double unscale = 2 * mixture.mean_gamma / mixture.scale();
    std::vector<double> values(dim);
    side.pooled->for_runs(begin, end, [&](int64_t first, int64_t position, int64_t count) {
      for (int64_t r = 0; r < count; ++r) {
        const T* product = side.product.get() + (position + r) * side.padded_dim;
        const T* row = centred + (position + r - begin) * dim;
        const double row_sum = side.row_sums[position + r];
        for (int64_t k = 0; k < dim; ++k) values[k] = (double(product[k]) - row_sum * double(row[k])) * unscale;
        kernel_table().narrow_row(out.data + (first + r) * dim * out.element_bytes, out.type, values.data(), dim);
      }
    });
  });
}

template <class T>
void differentiate_batch(const KernelSumCall& call, const std::vector<int64_t>& problems, const double* coefficients,
                         const Output& out, double* sums) {
  const DepthBlocks depth = depth_blocks<T>(call.points.dim);
  const PackedBatch<T> batch = pack_batch<T>(call, problems, depth);
  Sides<T> sides = make_sides(call, problems, batch);
  const std::vector<PanelTask<T>> panels = list_panels(sides);
  const Rounds rounds = make_schedule(sides, problems.size());
  const int64_t workers = workers_for(int64_t(panels.size()));
  Buffer<T> rows(workers * panel_size<T>() * call.points.dim);

  prepare_panels(call, panels, rows.get());
  run_schedule(call, problems, batch, depth, rounds, coefficients, workers, sides, sums);
  store_gradient(call, panels, rows.get(), out);
}

void check_disjoint(const KernelSumCall& call) {
  std::vector<std::pair<int64_t, int64_t>> taken;
  for (const auto* problems : {&call.rows, &call.columns})
    for (const PooledRows& pooled : *problems)
      for (const Group& group : pooled.groups)
        if (group.length > 0) taken.emplace_back(group.first_row, group.first_row + group.length);
  std::sort(taken.begin(), taken.end());
  for (std::size_t i = 1; i < taken.size(); ++i)
    AWPF_CHECK(taken[i - 1].second <= taken[i].first, "rows: groups that share rows of z have no gradient");
}

void check_coefficients(const Tensor& coefficients, const KernelSumCall& call, const char* name) {
  check_cpu_contiguous(coefficients, name);
  check_type(coefficients, ScalarType::Double, name, "float64");
  AWPF_CHECK(coefficients.dim() == 3 && coefficients.size(0) == call.problems() &&
                 (call.problems() == 0 ||
                  (coefficients.size(1) == call.row_groups() && coefficients.size(2) == call.column_groups())),
             name, " must have shape (problems, row groups, column groups)");
}

void differentiate(const KernelSumCall& call, const Tensor& coefficients, const Tensor& gradient, double* sums) {
  const Points layout = as_points(gradient);
  const Output out{static_cast<char*>(gradient.mutable_data_ptr()), layout.type, layout.element_bytes};
  const double* c = coefficients.const_data_ptr<double>();
  for_each_batch<float>(call, [&](const auto& problems) { differentiate_batch<float>(call, problems, c, out, sums); });
  for_each_batch<double>(call,
                         [&](const auto& problems) { differentiate_batch<double>(call, problems, c, out, sums); });
}

}  // namespace

Tensor rbf_sums_backward(Tensor grad, Tensor z, Tensor rows, std::optional<Tensor> columns, Tensor gamma,
                         std::optional<Tensor> centre, bool) {
  const KernelSumCall call = read_call(z, rows, columns, gamma, centre);
  check_disjoint(call);
  check_coefficients(grad, call, "grad");
  Tensor gradient = allocate_zeros(z, {z.size(0), z.size(1)}, z.scalar_type());
  differentiate(call, grad, gradient, nullptr);
  return gradient;
}

std::tuple<Tensor, Tensor> rbf_sums_and_gradient(Tensor z, Tensor rows, Tensor gamma, Tensor coefficients, bool) {
  const KernelSumCall call = read_call(z, rows, std::nullopt, gamma, std::nullopt);
  check_disjoint(call);
  check_coefficients(coefficients, call, "coefficients");
  const ScalarType type = call.points.type == ElementType::f64 ? ScalarType::Double : ScalarType::Float;
  Tensor gradient = allocate_zeros(z, {z.size(0), z.size(1)}, type);
  Tensor sums = allocate_zeros(coefficients, {rows.size(0), rows.size(1), rows.size(1)}, ScalarType::Double);
  double* out = sums.mutable_data_ptr<double>();
  differentiate(call, coefficients, gradient, out);
  // The diagonal, where every kernel is 1, has no gradient and was left out.
  const int64_t groups = call.row_groups();
  for (int64_t p = 0; p < call.problems(); ++p)
    for (int64_t g = 0; g < groups; ++g) out[(p * groups + g) * groups + g] += double(call.rows[p].groups[g].length);
  return {sums, gradient};
}

}  // namespace awpf
