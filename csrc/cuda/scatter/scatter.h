// What the kernels of scatter share: the data of a few problems at a time, and where each of them lies.
#pragma once

#include "cuda/device/double_tile.h"
#include "cuda/device/simt.h"
#include "cuda/device/split_tile.h"

namespace awpf {

constexpr int kPiece = 128;  // rows of a class that one thread adds up

// A row of x and its class, at its place in the order of the classes.
struct Placed {
  int row, label;
};
// A class mean in two parts, or the least and the largest value of a feature.
struct Two {
  float first, second;
};

// One way to cut a symmetric product: lower-triangle tiles, each in `splits` ranges of rows.
struct Cut {
  int tiles, splits, rows;  // rows of a split

  __host__ __device__ int64_t blocks() const { return int64_t(tiles) * splits; }
};

struct Sizes {
  int rows, dim, classes;
  int blocks, block_rows;  // blocks of rows that are counted and placed by themselves
  int most_pieces;
  Cut split, exact, spread;  // of within: on tensor cores, in double; of between
};

// One problem's part of everything.
struct Problem {
  const void* x;
  const int64_t* labels;
  double *within, *between, *means;
  int64_t* counts;
  Placed* order;         // (rows,)
  int* offsets;          // (blocks, classes): how many rows, then where they go
  int *starts, *pieces;  // (classes + 1,): first place, first piece of each class
  double* piece_sums;    // (most_pieces, dim)
  Two* piece_extremes;
  Two *split_means, *extremes;  // (classes, dim)
  double* grand;                // (dim,)
  float* ranges;                // (dim,): largest less smallest value
  int* inexact;                 // whether halves do not do
  double *split_tiles, *exact_tiles, *spread_tiles;

  __device__ __forceinline__ int placed(const Sizes& s) const { return starts[s.classes]; }
};

// The problems of one wave, one after the other in each array.
struct Wave {
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
    at.order += p * s.rows;
    at.offsets += p * s.blocks * s.classes;
    at.starts += p * (s.classes + 1);
    at.pieces += p * (s.classes + 1);
    at.piece_sums += p * s.most_pieces * s.dim;
    at.piece_extremes += p * s.most_pieces * s.dim;
    at.split_means += p * per_class;
    at.extremes += p * per_class;
    at.grand += p * s.dim;
    at.ranges += p * s.dim;
    at.inexact += p;
    at.split_tiles += p * s.split.blocks() * (kSplitTile * kSplitTile);
    at.exact_tiles += p * s.exact.blocks() * (kDoubleTile * kDoubleTile);
    at.spread_tiles += p * s.spread.blocks() * (kDoubleTile * kDoubleTile);
    return at;
  }
};

// Rows by class, in their order within a class; labels outside 0 to classes - 1 have no place. (order.cu)
void order_by_class(const Wave& wave, int problems, Stream stream);

}  // namespace awpf
