// The panels of points that the gradient is computed from: what is stored for them, and in which order their pairs are
// processed.
#pragma once

#include "cpu/mmd/kernel_sum_call.h"
#include "cpu/mmd/round_robin.h"

namespace awpf {

// A panel serves as rows and as columns of P: it consists of whole strips of both kinds.
template <class T>
int64_t panel_size() {
  return round_up(sizeof(T) == 4 ? 224 : 112, common_strips<T>());
}

// The rows or the columns of one problem: the points as second operand of P . Z, and what is accumulated for them.
template <class T>
struct Side {
  int64_t problem = 0, padded_dim = 0, panel_points = 0;
  const PooledRows* pooled = nullptr;
  const PackedRows<T>* packed = nullptr;
  Buffer<T> points;         // Z, with the features in strips: each panel takes `panel_points`
  Buffer<T> product;        // P . Z
  Buffer<double> row_sums;  // sum_j P_ij

  void allocate(int64_t dim) {
    padded_dim = round_up(dim, kernels<T>().tile_columns);
    const int64_t rows = panels() * panel_size<T>();
    panel_points = StripLayout<T>(Operand::b, dim, one_block(panel_size<T>())).size();
    points = Buffer<T>(panels() * panel_points);
    product = Buffer<T>(rows * padded_dim);
    row_sums = Buffer<double>(rows);
  }
  int64_t panels() const { return ceil_div(pooled->size, panel_size<T>()); }
  int64_t begin(int64_t panel) const { return panel * panel_size<T>(); }
  // Where the points of the panel that begins with `row` are.
  int64_t points_of(int64_t row) const { return row / panel_size<T>() * panel_points; }
  int64_t end(int64_t panel) const { return std::min((panel + 1) * panel_size<T>(), pooled->size); }
};

// The sides of all members of a batch: one of each for a symmetric call, else its rows and its columns.
template <class T>
struct Sides {
  std::vector<Side<T>> sides;
  bool symmetric;

  Side<T>& rows(std::size_t member) { return sides[symmetric ? member : 2 * member]; }
  Side<T>& columns(std::size_t member) { return sides[symmetric ? member : 2 * member + 1]; }
};

template <class T>
struct PanelTask {
  Side<T>* side;
  int64_t panel;
};

template <class T>
Sides<T> make_sides(const KernelSumCall& call, const std::vector<int64_t>& problems, const PackedBatch<T>& batch) {
  Sides<T> result{std::vector<Side<T>>(problems.size() * (call.symmetric() ? 1 : 2)), call.symmetric()};
  const auto fill = [&](Side<T>& side, int64_t problem, const PooledRows& pooled, const PackedRows<T>& packed) {
    side.problem = problem;
    side.pooled = &pooled;
    side.packed = &packed;
    side.allocate(call.points.dim);
  };
  for (std::size_t member = 0; member < problems.size(); ++member) {
    const int64_t p = problems[member];
    fill(result.rows(member), p, call.rows[p], batch.rows[member]);
    if (!call.symmetric()) fill(result.columns(member), p, call.columns[p], batch.columns[member]);
  }
  return result;
}

template <class T>
std::vector<PanelTask<T>> list_panels(Sides<T>& sides) {
  std::vector<PanelTask<T>> tasks;
  for (Side<T>& side : sides.sides)
    for (int64_t panel = 0; panel < side.panels(); ++panel) tasks.push_back({&side, panel});
  return tasks;
}

template <class T>
Rounds make_schedule(Sides<T>& sides, std::size_t members) {
  Rounds rounds;
  for (std::size_t member = 0; member < members; ++member)
    if (sides.symmetric)
      add_round_robin(rounds, member, sides.rows(member).panels());
    else
      add_all_against_all(rounds, member, sides.rows(member).panels(), sides.columns(member).panels());
  return rounds;
}

}  // namespace awpf
