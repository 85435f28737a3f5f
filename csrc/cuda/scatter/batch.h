// The arrays of a batch of problems, which all kernels of scatter share. Passed to kernels by value.
#pragma once

#include "cuda/device/double_tile.h"
#include "cuda/device/simt.h"
#include "cuda/device/split_tile.h"

namespace awpf {

constexpr int kPiece = 128;  // rows of a class that one thread adds up

// The index of a row of x and its class.
struct SortedRow {
  int row, label;
};
// A class mean as the sum of two floats.
struct SplitMean {
  float high, low;
};
// The extremes of a feature.
struct MinMax {
  float min, max;
};

// Split-K of a symmetric product: the tiles of the lower triangle, each in `splits` ranges of rows.
struct SplitK {
  int tiles, splits, rows;  // `rows` of each split

  __host__ __device__ int64_t blocks() const { return int64_t(tiles) * splits; }
};

struct Sizes {
  int rows, dim, classes;
  int blocks, block_rows;  // of the counting sort
  int max_pieces;
  SplitK split, fp64, between;  // within-class scatter on tensor cores and in double precision; between-class scatter
};

// The arrays of one problem.
struct Problem {
  const void* x;
  const int64_t* labels;
  double *within, *between, *means;
  int64_t* counts;
  SortedRow* sorted_rows;            // (rows,): by class
  int* offsets;                      // (blocks, classes): counts, then positions of the first rows
  int *class_starts, *class_pieces;  // (classes + 1,): first sorted row, first piece of each class
  double* piece_sums;                // (max_pieces, dim)
  MinMax* piece_extremes;
  SplitMean* split_means;  // (classes, dim)
  MinMax* extremes;        // (classes, dim)
  double* grand_mean;      // (dim,)
  float* feature_ranges;   // (dim,): maximum minus minimum
  int* needs_fp64;         // whether split halves are not accurate enough
  double *split_tiles, *fp64_tiles, *between_tiles;

  __device__ __forceinline__ int valid_rows(const Sizes& s) const { return class_starts[s.classes]; }
};

// Each array holds the problems one after the other.
struct ScatterBatch {
  Problem first;
  Sizes sizes;
  int element_bytes;

  __device__ __forceinline__ Problem problem(int64_t p) const {
    const Sizes& s = sizes;
    Problem at = first;
    const int64_t points = int64_t(s.rows) * s.dim, per_class = int64_t(s.classes) * s.dim,
                  area = int64_t(s.dim) * s.dim;
    at.x = static_cast<const char*>(first.x) + p * points * element_bytes;
    at.labels += p * s.rows;
    at.within += p * area;
    at.between += p * area;
    at.means += p * per_class;
    at.counts += p * s.classes;
    at.sorted_rows += p * s.rows;
    at.offsets += p * s.blocks * s.classes;
    at.class_starts += p * (s.classes + 1);
    at.class_pieces += p * (s.classes + 1);
    at.piece_sums += p * s.max_pieces * s.dim;
    at.piece_extremes += p * s.max_pieces * s.dim;
    at.split_means += p * per_class;
    at.extremes += p * per_class;
    at.grand_mean += p * s.dim;
    at.feature_ranges += p * s.dim;
    at.needs_fp64 += p;
    at.split_tiles += p * s.split.blocks() * (kSplitTile * kSplitTile);
    at.fp64_tiles += p * s.fp64.blocks() * (kDoubleTile * kDoubleTile);
    at.between_tiles += p * s.between.blocks() * (kDoubleTile * kDoubleTile);
    return at;
  }
};

// Sorts rows by class, stably; rows with labels outside 0 to classes - 1 are left out (sort.cu).
void sort_by_class(const ScatterBatch& batch, int problems, Stream stream);

}  // namespace awpf
