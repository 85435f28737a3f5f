// Class means, the mean of all rows, and the range of each feature.
#pragma once

#include "cuda/device/elements.h"
#include "cuda/scatter/batch.h"

namespace awpf {

constexpr int kColumnThreads = 128;

// Sum, minimum and maximum of each feature over a piece of a class.
template <class T>
static __global__ void __launch_bounds__(kColumnThreads) add_pieces(ScatterBatch batch) {
  const Problem p = batch.problem(blockIdx.z);
  const int piece = blockIdx.x, classes = batch.sizes.classes, dim = batch.sizes.dim;
  const int column = int(blockIdx.y) * kColumnThreads + int(threadIdx.x);
  if (piece >= p.class_pieces[classes] || column >= dim) return;
  int label = 0, beyond = classes;  // class_pieces[label] <= piece < class_pieces[beyond]
  while (beyond - label > 1) {
    const int middle = (label + beyond) / 2;
    (p.class_pieces[middle] <= piece ? label : beyond) = middle;
  }
  const int begin = p.class_starts[label] + (piece - p.class_pieces[label]) * kPiece;
  const int end = p.class_starts[label + 1] - begin < kPiece ? p.class_starts[label + 1] : begin + kPiece;
  const T* x = static_cast<const T*>(p.x) + column;
  double sum = 0;
  MinMax extremes{INFINITY, -INFINITY};
#pragma unroll 8
  for (int position = begin; position < end; ++position) {
    const auto value = widen(x[int64_t(p.sorted_rows[position].row) * dim]);
    sum += double(value);
    extremes.min = fminf(extremes.min, float(value));
    extremes.max = fmaxf(extremes.max, float(value));
  }
  p.piece_sums[int64_t(piece) * dim + column] = sum;
  p.piece_extremes[int64_t(piece) * dim + column] = extremes;
}

static __global__ void __launch_bounds__(kColumnThreads) find_means(ScatterBatch batch) {
  const Problem p = batch.problem(blockIdx.z);
  const int label = blockIdx.x, dim = batch.sizes.dim;
  const int column = int(blockIdx.y) * kColumnThreads + int(threadIdx.x);
  if (column >= dim) return;
  double sum = 0;
  MinMax extremes{INFINITY, -INFINITY};
  for (int piece = p.class_pieces[label]; piece < p.class_pieces[label + 1]; ++piece) {
    const MinMax theirs = p.piece_extremes[int64_t(piece) * dim + column];
    sum += p.piece_sums[int64_t(piece) * dim + column];
    extremes = {fminf(extremes.min, theirs.min), fmaxf(extremes.max, theirs.max)};
  }
  const int64_t count = p.counts[label], index = int64_t(label) * dim + column;
  const double mean = count > 0 ? sum / double(count) : 0.0;
  const float high = float(mean);
  p.means[index] = mean;
  p.split_means[index] = {high, float(mean - double(high))};
  p.extremes[index] = extremes;
}

// The mean of all rows and the range of each feature. A block takes 32 features; its 32 warps share the classes.
static __global__ void __launch_bounds__(kWarp* kWarp) find_ranges(ScatterBatch batch) {
  double* sums = shared_memory<double>();
  MinMax* extremes = reinterpret_cast<MinMax*>(sums + kWarp * kWarp);
  const Problem p = batch.problem(blockIdx.y);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, dim = batch.sizes.dim;
  const int column = int(blockIdx.x) * kWarp + lane;
  double sum = 0;
  MinMax mine{INFINITY, -INFINITY};
  if (column < dim)
#pragma unroll 4
    for (int label = warp; label < batch.sizes.classes; label += kWarp) {
      const int64_t index = int64_t(label) * dim + column;
      const MinMax theirs = p.extremes[index];
      sum += double(p.counts[label]) * p.means[index];
      mine = {fminf(mine.min, theirs.min), fmaxf(mine.max, theirs.max)};
    }
  sums[threadIdx.x] = sum;
  extremes[threadIdx.x] = mine;
  __syncthreads();
  if (warp > 0 || column >= dim) return;
  for (int other = 1; other < kWarp; ++other) {
    const MinMax theirs = extremes[other * kWarp + lane];
    sum += sums[other * kWarp + lane];
    mine = {fminf(mine.min, theirs.min), fmaxf(mine.max, theirs.max)};
  }
  const int rows = p.valid_rows(batch.sizes);
  p.grand_mean[column] = sum / double(rows > 0 ? rows : 1);
  p.feature_ranges[column] = rows > 0 ? mine.max - mine.min : 0.0f;
}

}  // namespace awpf
