// The innermost loops of all operations, as tables of plain functions: one table per instruction set, chosen once when
// the library is loaded (dispatch.cpp). All other files are compiled for the baseline and reach the loops through it.
#pragma once

#include <stdint.h>

#include "common/lost_distances.h"
#include "common/shuffle.h"

namespace awpf {

enum class ElementType : int32_t { f16, bf16, f32, f64 };

// How a mixture of Gaussian kernels is evaluated (common/kernel_mixture.h). With a = -|z_i - z_j|^2 / 2 of scaled
// points, kernel s is 2^(rate[s] a) where squarings[s] is zero, and else kernel s - 1 squared squarings[s] times.
template <class T>
struct MixtureView {
  int64_t steps;
  const int32_t* squarings;
  const T* rate;
  const T* weight;  // of each kernel in the weighted sum; the unweighted sum ignores it
};

// A block of a Gram matrix of centred rows, and what turns inner products into distances: half the squared norms, each
// in two parts, because the rounding error of a norm would be shared by its whole row. Offsets are relative to the
// block; the arrays of norms are padded by a vector.
template <class T>
struct GramBlock {
  T* values;
  int64_t stride;
  const T* row_norm;
  const T* row_norm_rest;
  const T* column_norm;
  const T* column_norm_rest;
  int64_t diagonal;  // (first row) - (first column)
};

// The pairs of one group of rows and one group of columns within a block.
struct Cell {
  int64_t row_begin, row_end, column_begin, column_end;
};

// Which pairs of a cell count.
enum class Keep : int32_t { below_diagonal, off_diagonal, all };

// `diagonal` of a block that does not meet the diagonal.
constexpr int64_t kNoDiagonal = INT64_MAX / 4;

// The two operands of a product A . B'.
enum class Operand : int32_t { a, b };

// Operand A of a product is packed into strips of `tile_rows` rows, operand B into strips of `tile_columns` rows.
template <class T>
struct TypedKernels {
  int32_t tile_rows, tile_columns;
  // A product runs over whole steps of the depth; a block of the depth that is cut elsewhere wastes part of a step.
  int32_t depth_step;
  // How much room a packed strip takes, in T. What is stored there need not be of type T, unless T is double.
  int64_t (*strip_size)(Operand operand, int64_t depth);

  // Pack from rows of points (the depth is contiguous) or from columns (the rows are contiguous).
  void (*pack_rows_a)(T* to, const T* from, int64_t row_stride, int64_t rows, int64_t depth);
  void (*pack_rows_b)(T* to, const T* from, int64_t row_stride, int64_t rows, int64_t depth);
  void (*pack_columns_a)(T* to, const T* from, int64_t depth_stride, int64_t rows, int64_t depth);
  void (*pack_columns_b)(T* to, const T* from, int64_t depth_stride, int64_t rows, int64_t depth);
  // C = or += A . B'. `diagonal` is (first row) - (first column) of a block of a symmetric product whose strict lower
  // triangle is wanted, and kNoDiagonal for a full product.
  void (*multiply)(const T* a, const T* b, T* c, int64_t c_stride, int64_t row_strips, int64_t column_strips,
                   int64_t depth, bool accumulate, int64_t diagonal);

  // to[r] = (from[r] - centre) * scale; half_norms[r] is half the squared norm of to[r].
  void (*centre_rows)(T* to, int64_t to_stride, const void* from, ElementType type, int64_t from_stride, int64_t rows,
                      int64_t depth, const double* centre, double scale, double* half_norms);

  // Returns the sum of the unweighted mixture over the cell.
  double (*rbf_sum)(const GramBlock<T>& block, const Cell& cell, const MixtureView<T>& mixture, Keep keep);
  // Replaces the inner products of the cell by factor * (weighted mixture), or zero where a pair does not count, adds
  // the sums of the rows to row_sums, and returns the sum of the unweighted mixture over the cell.
  double (*rbf_values)(const GramBlock<T>& block, const Cell& cell, const MixtureView<T>& mixture, T factor, Keep keep,
                       double* row_sums);
  // The same two with distances and kernels in double.
  double (*wide_rbf_sum)(const GramBlock<T>& block, const Cell& cell, const MixtureView<double>& mixture, Keep keep);
  double (*wide_rbf_values)(const GramBlock<T>& block, const Cell& cell, const MixtureView<double>& mixture, T factor,
                            Keep keep, double* row_sums);

  void (*widen_bytes)(T* to, const uint8_t* from, int64_t count);
  // to[r] = from[r] - centres[labels[r]].
  void (*centre_by_label)(T* to, int64_t to_stride, const void* from, ElementType type, int64_t from_stride,
                          int64_t rows, int64_t depth, const double* centres, int64_t centre_stride,
                          const int64_t* labels);
  // to[r, k] = from[r, k] * factor[k]; without factors, to = from.
  void (*scale_rows)(T* to, int64_t to_stride, const void* from, ElementType type, int64_t from_stride, int64_t rows,
                     int64_t depth, const T* factor);
  // to = base + from, rounded once to the element type; without a base, to = from.
  void (*store_row)(void* to, const T* from, const void* base, ElementType type, int64_t count);
  // sums += values.
  void (*add_block)(double* sums, int64_t sums_stride, const T* values, int64_t stride, int64_t rows, int64_t columns);
};

struct KernelTable {
  const char* name;  // of the instruction set
  const TypedKernels<float>* f32;
  const TypedKernels<double>* f64;
  // to = from, rounded to the element type.
  void (*narrow_row)(void* to, ElementType type, const double* from, int64_t count);
  // values[i] = one pass of the shuffle over values[i].
  void (*shuffle_once)(uint32_t* values, int64_t count, const ShuffleKey& key);
  // sums[labels[r]] += from[r].
  void (*add_rows_by_label)(double* sums, int64_t sums_stride, const void* from, ElementType type, int64_t from_stride,
                            int64_t rows, int64_t depth, const int64_t* labels);
  // sums += the rows; returns the sum of their squares.
  double (*add_rows)(double* sums, const void* from, ElementType type, int64_t from_stride, int64_t rows,
                     int64_t depth);
  // out[k] = |row - others[k]|^2, by differences.
  void (*squared_distances)(double* out, const double* row, const double* others, int64_t stride, int64_t count,
                            int64_t depth);
  // |scale (a - b)|^2 for two rows.
  double (*square_difference)(const void* a, const void* b, ElementType type, double scale, int64_t depth);
  // sums += factor * (a - b).
  void (*add_difference)(double* sums, const void* a, const void* b, ElementType type, double factor, int64_t depth);
  // Lists those columns of [begin, end) whose distances from a row of the block are lost; returns how many.
  int64_t (*lost_columns)(const GramBlock<double>& block, int64_t row, int64_t begin, int64_t end,
                          const LostDistances& lost, int32_t* columns);
  // Whether the instructions of this machine compute what the table relies on; null if there is no doubt.
  bool (*is_exact)();
};

// The table in use: that of the best instruction set of this machine, or the one that AWPF_CPU_ISA names.
const KernelTable& kernel_table();
// Why better ones that were built are not in use: a line "name: reason" for each; empty with AWPF_CPU_ISA.
const char* rejected_tables();

// Its functions for one type.
template <class T>
const TypedKernels<T>& kernels();

template <class T>
constexpr ElementType element_type() {
  return sizeof(T) == 4 ? ElementType::f32 : ElementType::f64;
}

}  // namespace awpf
