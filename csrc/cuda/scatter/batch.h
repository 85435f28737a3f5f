// What the kernels of scatter share: the data of a few problems at a time, and where each of them lies.
#pragma once

#include "cuda/device/double_tile.h"
#include "cuda/device/simt.h"
#include "cuda/device/split_tile.h"

namespace awpf {

constexpr int kPiece = 128;  // rows of a class that one thread adds up

// A row of x and its class, at its place in the order of the classes.
struct SortedRow {
  int row, label;
};
// A class mean in two parts, or the least and the largest value of a feature.
struct FloatPair {
  float first, second;
};

// One way to cut a symmetric product: lower-triangle tiles, each in `splits` ranges of rows.
struct SplitK {
  int tiles, splits, rows;  // rows of a split

  __host__ __device__ int64_t blocks() const { return int64_t(tiles) * splits; }
};

struct Sizes {
  int rows, dim, classes;
  int blocks, block_rows;  // blocks of rows that are counted and placed by themselves
  int max_pieces;
  SplitK split, fp64, between;  // of within: on tensor cores, in double; of between
};

// One problem's part of everything.
struct Problem {
  const void* x;
  const int64_t* labels;
  double *within, *between, *means;
  int64_t* counts;
  SortedRow* sorted_rows;            // (rows,)
  int* offsets;                      // (blocks, classes): how many rows, then where they go
  int *class_starts, *class_pieces;  // (classes + 1,): first place, first piece of each class
  double* piece_sums;                // (max_pieces, dim)
  FloatPair* piece_extremes;
  FloatPair *split_means, *extremes;  // (classes, dim)
  double* grand_mean;                 // (dim,)
  float* feature_ranges;              // (dim,): largest less smallest value
  int* needs_fp64;                    // whether halves do not do
  double *split_tiles, *fp64_tiles, *between_tiles;

  __device__ __forceinline__ int valid_rows(const Sizes& s) const { return class_starts[s.classes]; }
};

// The problems of one batch, one after the other in each array.
struct ScatterBatch {
  Problem first;
  Sizes s;
  int element_bytes;

  __device__ __forceinline__ Problem problem(int64_t p) const {
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

// Rows by class, in their order within a class; labels outside 0 to classes - 1 have no place. (order.cu)
void sort_by_class(const ScatterBatch& batch, int problems, Stream stream);

}  // namespace awpf
