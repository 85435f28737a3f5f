// The pass over a block of inner products while it is in cache: distances, mixture of Gaussian kernels, sum.
//
// About 10 + 3 steps operations per element, against 2 d in the product before it. Kernels whose exponents are in the
// ratio 2 or 4 share one exp2: the next kernel is the last one squared (common/kernel_mixture.h).
#pragma once

#include "cpu/kernel_table.h"
#include "cpu/vec.h"

namespace {

// -|z_i - z_j|^2 / 2 for the vector of columns that begins at `j`, in E. Rounding may take it above zero: in single
// precision by a little, which has to stay, since the errors of many duplicates would not average out if all were of
// one sign. In double it is cut off, since there it can be as large as the points.
template <class E, class T>
inline Vec<E> exponent(const GramBlock<T>& block, const T* row, int64_t i, int64_t j) {
  const Vec<E> rest = E(block.row_norm_rest[i]) + load_as<E>(block.column_norm_rest + j);
  const Vec<E> found = ((load_as<E>(row + j) - E(block.row_norm[i])) - load_as<E>(block.column_norm + j)) - rest;
  return sizeof(T) == sizeof(double) ? at_most<E>(found, E(0)) : found;
}

template <class T>
struct MixtureValue {
  Vec<T> sum, weighted;
};

// The compiler drops the sum that is not used.
template <class T>
inline MixtureValue<T> mixture_value(Vec<T> a, const MixtureView<T>& mixture) {
  Vec<T> kernel = exp2_nonpositive<T>(a * mixture.rate[0]);
  MixtureValue<T> value{kernel, kernel * mixture.weight[0]};
  for (int64_t s = 1; s < mixture.steps; ++s) {
    if (mixture.squarings[s] == 0) {
      kernel = exp2_nonpositive<T>(a * mixture.rate[s]);
    } else {
      for (int32_t k = 0; k < mixture.squarings[s]; ++k) {
        kernel = at_least<T>(kernel, VecTypes<T>::kSquarable);
        kernel *= kernel;
      }
    }
    value.sum += kernel;
    value.weighted += kernel * mixture.weight[s];
  }
  return value;
}

// The columns of row `i` that count: [begin, end) except `hole`.
struct Kept {
  int64_t begin, end, hole;
};

inline Kept kept_columns(const Cell& cell, int64_t i, int64_t diagonal, Keep keep) {
  Kept kept{cell.column_begin, cell.column_end, -1};
  const int64_t on_diagonal = diagonal + i;
  if (keep == Keep::below_diagonal && on_diagonal < kept.end)
    kept.end = on_diagonal > kept.begin ? on_diagonal : kept.begin;
  if (keep == Keep::off_diagonal && on_diagonal >= kept.begin && on_diagonal < kept.end) kept.hole = on_diagonal;
  return kept;
}

// Distances and kernels are computed in E.
template <class T, class E>
double rbf_sum(const GramBlock<T>& block, const Cell& cell, const MixtureView<E>& mixture, Keep keep) {
  DoubleSum sum;
  const auto lane = lane_index<E>();
  for (int64_t i = cell.row_begin; i < cell.row_end; ++i) {
    const T* row = block.values + i * block.stride;
    const Kept kept = kept_columns(cell, i, block.diagonal, keep);
    int64_t j = kept.begin;
    for (; j + kLanes<E> <= kept.end; j += kLanes<E>)
      sum.add(mixture_value(exponent<E>(block, row, i, j), mixture).sum);
    if (j < kept.end) {
      const Vec<E> value = mixture_value(exponent<E>(block, row, i, j), mixture).sum;
      sum.add(lane < typename VecTypes<E>::Int(kept.end - j) ? value : Vec<E>{});
    }
  }
  return sum.total();
}

template <class T, class E>
double rbf_values(const GramBlock<T>& block, const Cell& cell, const MixtureView<E>& mixture, T factor, Keep keep,
                  double* row_sums) {
  const auto lane = lane_index<E>();
  using Int = typename VecTypes<E>::Int;
  DoubleSum total;
  for (int64_t i = cell.row_begin; i < cell.row_end; ++i) {
    T* row = block.values + i * block.stride;
    const Kept kept = kept_columns(cell, i, block.diagonal, keep);
    DoubleSum row_sum;
    for (int64_t j = cell.column_begin; j < cell.column_end; j += kLanes<E>) {
      Vec<E> weighted{};
      if (j < kept.end) {
        MixtureValue<E> value = mixture_value(exponent<E>(block, row, i, j), mixture);
        value.weighted *= E(factor);
        if (kept.hole >= j && kept.hole < j + kLanes<E>) {
          value.sum = lane == Int(kept.hole - j) ? Vec<E>{} : value.sum;
          value.weighted = lane == Int(kept.hole - j) ? Vec<E>{} : value.weighted;
        }
        if (kept.end - j < kLanes<E>) {
          value.sum = lane < Int(kept.end - j) ? value.sum : Vec<E>{};
          value.weighted = lane < Int(kept.end - j) ? value.weighted : Vec<E>{};
        }
        total.add(value.sum);
        row_sum.add(value.weighted);
        weighted = value.weighted;
      }
      // The lanes after the cell belong to the next cell, which still needs its inner products.
      if (cell.column_end - j < kLanes<E>) weighted = lane < Int(cell.column_end - j) ? weighted : load_as<E>(row + j);
      store_as(row + j, weighted);
    }
    row_sums[i] += row_sum.total();
  }
  return total.total();
}

// Lists the columns whose distances from row `i` are lost (common/lost_distances.h).
inline int64_t lost_columns(const GramBlock<double>& block, int64_t i, int64_t begin, int64_t end,
                            const LostDistances& lost, int32_t* columns) {
  const double* row = block.values + i * block.stride;
  int64_t count = 0;
  for (int64_t j = begin; j < end; j += kLanes<double>) {
    const Vec<double> column_norm = load(block.column_norm + j), norms = block.row_norm[i] + column_norm;
    const Vec<double> exponent = (load(row + j) - block.row_norm[i]) - column_norm;
    const auto found = (norms > lost.limit) & (exponent > -LostDistances::kLargest - lost.worst * norms) &
                       (exponent > -LostDistances::kReach * lost.usual * norms);
    int64_t any = 0;
    for (int k = 0; k < kLanes<double>; ++k) any |= found[k];
    if (any == 0) continue;
    for (int k = 0; k < kLanes<double> && j + k < end; ++k)
      if (found[k] != 0) columns[count++] = int32_t(j + k);
  }
  return count;
}

template <class T>
void add_block(double* sums, int64_t sums_stride, const T* values, int64_t stride, int64_t rows, int64_t columns) {
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j) sums[i * sums_stride + j] += double(values[i * stride + j]);
}

}  // namespace
