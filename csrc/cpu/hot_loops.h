// The hot loops, as a table of plain functions: one table an instruction set, chosen once when the library is loaded.
// Drivers (mmd.cpp, scatter.cpp, ...) are compiled for the baseline only and reach the loops through this table.
#pragma once

#include <stdint.h>

#include "common/shuffle.h"

namespace awpf {

enum class Element : int32_t { f16, bf16, f32, f64 };

// How exp(-gamma_s d^2), s = 0, 1, ..., is evaluated from a = -|z_i - z_j|^2 / 2 in units where 2^(rate a) is the
// kernel: step s is 2^(rate[s] a) anew where squarings[s] = 0, or the step before squared that many times.
template <class T>
struct Mixture {
  int64_t steps;
  const int32_t* squarings;
  const T* rate;
  const T* weight;  // of each step in a weighted value; sums ignore it
};

// A block of a Gram matrix of centred rows, and what turns it into distances: half squared norms, in two pieces each so
// that their rounding is not shared by a whole row. Offsets are relative to the block; arrays are padded to a vector.
template <class T>
struct GramBlock {
  T* values;
  int64_t stride;
  const T* row_norm;
  const T* row_norm_rest;
  const T* column_norm;
  const T* column_norm_rest;
  int64_t diagonal;  // (first row) - (first column); far from 0 where the block does not meet the diagonal
};

struct Cell {
  int64_t row_begin, row_end, column_begin, column_end;
};

enum class Keep : int32_t { below_diagonal, off_diagonal, all };

constexpr int64_t kNoDiagonal = INT64_MAX / 4;

template <class T>
struct HotLoops {
  int32_t rows;     // of a strip of A
  int32_t columns;  // rows of a strip of B

  void (*pack_rows_a)(T* to, const T* from, int64_t row_stride, int64_t rows, int64_t depth);
  void (*pack_rows_b)(T* to, const T* from, int64_t row_stride, int64_t rows, int64_t depth);
  void (*pack_columns_a)(T* to, const T* from, int64_t depth_stride, int64_t rows, int64_t depth);
  void (*pack_columns_b)(T* to, const T* from, int64_t depth_stride, int64_t rows, int64_t depth);
  void (*multiply)(const T* a, const T* b, T* c, int64_t c_stride, int64_t row_strips, int64_t column_strips,
                   int64_t depth, bool accumulate, int64_t diagonal);

  // to[r] = (from[r] - centre) * scale, and half the squared norm of what was stored.
  void (*centre_rows)(T* to, int64_t to_stride, const void* from, Element element, int64_t from_stride, int64_t rows,
                      int64_t depth, const double* centre, double scale, double* half_norms);

  // Sum over the cell of the unweighted mixture.
  double (*rbf_sum)(const GramBlock<T>& block, const Cell& cell, const Mixture<T>& mixture, Keep keep);
  // Replaces the cell by factor * weighted mixture (zero where not kept), adds up its rows, and returns the sum over
  // the cell of the unweighted mixture.
  double (*rbf_values)(const GramBlock<T>& block, const Cell& cell, const Mixture<T>& mixture, T factor, Keep keep,
                       double* row_sums);
  // Writes the squared distances of one row to `out`, contiguous.
  void (*squared_distances)(const GramBlock<T>& block, int64_t row, int64_t columns, T* out);

  void (*widen_bytes)(T* to, const uint8_t* from, int64_t count);
  // out[r] = (from[r] - centres[labels[r]]), element by element, for one slice of the features.
  void (*centre_by_label)(T* to, int64_t to_stride, const void* from, Element element, int64_t from_stride,
                          int64_t rows, int64_t depth, const double* centres, int64_t centre_stride,
                          const int64_t* labels);
  // to[r, k] = from[r, k] * factor[k]; a null factor is 1.
  void (*scale_rows)(T* to, int64_t to_stride, const void* from, Element element, int64_t from_stride, int64_t rows,
                     int64_t depth, const T* factor);
  // to = base + from, rounded once to the element type; a null base is 0.
  void (*store_row)(void* to, const T* from, const void* base, Element element, int64_t count);
  // sums += values, in double; sums has its own stride.
  void (*add_block)(double* sums, int64_t sums_stride, const T* values, int64_t stride, int64_t rows, int64_t columns);
};

struct HotLoopSet {
  const char* name;
  const HotLoops<float>* f32;
  const HotLoops<double>* f64;
  void (*narrow_row)(void* to, Element element, const double* from, int64_t count);
  // values[i] = one pass of the shuffle over values[i].
  void (*shuffle_once)(uint32_t* values, int64_t count, const ShuffleKey& key);
  // sums[labels[r]] += from[r], for one slice of the features.
  void (*add_rows_by_label)(double* sums, int64_t sums_stride, const void* from, Element element, int64_t from_stride,
                            int64_t rows, int64_t depth, const int64_t* labels);
  // sums += rows; returns the sum of their squares.
  double (*add_rows)(double* sums, const void* from, Element element, int64_t from_stride, int64_t rows, int64_t depth);
};

// The set in use: the best one this machine runs, or the one AWPF_CPU_ISA names.
const HotLoopSet& hot_loops();

template <class T>
const HotLoops<T>& hot();

template <class T>
constexpr Element element_of() {
  return sizeof(T) == 4 ? Element::f32 : Element::f64;
}

}  // namespace awpf
