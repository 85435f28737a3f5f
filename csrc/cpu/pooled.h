// The pooled rows of one problem: which rows of z belong to which group, their centre and spread, and the packed,
// centred and scaled copies that the products read.
#pragma once

#include <vector>

#include "common/checks.h"
#include "common/kernel_mixture.h"
#include "hot_loops.h"
#include "memory.h"

namespace awpf {

struct Points {
  const char* data;
  Element element;
  int64_t element_bytes, rows, dim;

  const void* row(int64_t i) const { return data + i * dim * element_bytes; }
};

Points as_points(const Tensor& z);

struct Group {
  int64_t begin;  // row of z
  int64_t start;  // place in the pool
  int64_t length;
};

struct Pool {
  std::vector<Group> groups;
  int64_t size = 0;

  // The group that holds a place of the pool.
  int64_t group_at(int64_t place) const;
  // Calls f(row of z, place in the pool, count) for the runs of rows within [begin, end).
  template <class F>
  void for_runs(int64_t begin, int64_t end, const F& f) const {
    for (int64_t g = begin < end ? group_at(begin) : 0; begin < end; ++g) {
      const Group& group = groups[g];
      const int64_t count = std::min(end, group.start + group.length) - begin;
      if (count <= 0) continue;
      f(group.begin + (begin - group.start), begin, count);
      begin += count;
    }
  }
};

// Pools of all problems from `ranges` (problems, groups, 2): first row and one past the last of each group.
std::vector<Pool> read_pools(const Tensor& ranges, const Points& points, const char* name);

// The kernels of one problem, widest first. Their weights are 2 gamma_s / count, so that the weighted sum of the
// kernels is the derivative of their mean by -|z_i - z_j|^2 / 2.
struct KernelMixture {
  std::vector<KernelStep> steps;
  double widest_gamma, mean_gamma;

  double count() const { return double(steps.size()); }
  // The points are scaled by this, so that the widest kernel is 2^(-|z_i - z_j|^2 / 2).
  double scale() const;
};

KernelMixture read_mixture(const double* gamma, int64_t count);

// The same in the type and the layout of the hot loops.
template <class T>
struct MixtureArrays {
  std::vector<int32_t> squarings;
  std::vector<T> rate, weight;

  explicit MixtureArrays(const KernelMixture& mixture);
  Mixture<T> view() const { return {int64_t(rate.size()), squarings.data(), rate.data(), weight.data()}; }
};

// Where the points of one problem lie.
struct Frame {
  std::vector<double> centre;
  double mean_square = 0;  // mean squared distance from the centre
};

// Frames of all problems, over their rows and (if there are any) columns; NaN or infinity is an error that names the
// row.
std::vector<Frame> find_frames(const Points& points, const std::vector<Pool>& rows, const std::vector<Pool>& columns,
                               const double* given_centres);

// Depth is cut into blocks, so that a strip stays in the first-level cache.
struct Depth {
  int64_t total, block;

  explicit Depth(int64_t dim);
};

template <class T>
struct Packed {
  int64_t size = 0;
  int64_t padded_a = 0, padded_b = 0;
  Buffer<T> a, b, norm, norm_rest;

  void allocate(int64_t rows, int64_t dim, bool with_a, bool with_b);
  // Centres, scales and packs the places [begin, end), a range that starts at a multiple of packing_chunk().
  void pack(const Points& points, const Pool& pool, const Frame& frame, double scale, const Depth& depth, int64_t begin,
            int64_t end, T* scratch);
};

template <class T>
int64_t packing_chunk() {
  return int64_t(hot<T>().rows) * hot<T>().columns;
}

// A block of inner products: places [row_begin, row_end) against [column_begin, column_end), starting at whole strips.
struct Block {
  int64_t row_begin, row_end, column_begin, column_end;
};

template <class T>
GramBlock<T> gram_block(const Packed<T>& rows, const Packed<T>& columns, const Depth& depth, const Block& block,
                        int64_t diagonal, T* values, int64_t stride);

// Rows and columns of a block: whole strips of every instruction set, and both operands fit the second-level cache.
template <class T>
int64_t block_rows() {
  return round_up(sizeof(T) == 4 ? 224 : 112, hot<T>().rows);
}
template <class T>
int64_t block_columns() {
  return sizeof(T) == 4 ? 256 : 128;
}
template <class T>
int64_t block_stride() {
  return block_columns<T>() + kAlignment / int64_t(sizeof(T));
}

}  // namespace awpf
