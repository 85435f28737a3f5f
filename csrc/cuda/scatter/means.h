// Class means, the mean of all rows and the range of each feature.
#pragma once

#include "cuda/device/elements.h"
#include "cuda/scatter/scatter.h"

namespace awpf {

constexpr int kColumnThreads = 128;

// The sum, least and largest value of one feature over a piece of a class.
template <class T>
static __global__ void __launch_bounds__(kColumnThreads) add_pieces(Wave wave) {
  const Problem p = wave.problem(blockIdx.z);
  const int piece = blockIdx.x, classes = wave.s.classes, dim = wave.s.dim;
  const int column = int(blockIdx.y) * kColumnThreads + int(threadIdx.x);
  if (piece >= p.pieces[classes] || column >= dim) return;
  int label = 0, beyond = classes;  // pieces[label] <= piece < pieces[beyond]
  while (beyond - label > 1) {
    const int middle = (label + beyond) / 2;
    (p.pieces[middle] <= piece ? label : beyond) = middle;
  }
  const int begin = p.starts[label] + (piece - p.pieces[label]) * kPiece;
  const int end = p.starts[label + 1] - begin < kPiece ? p.starts[label + 1] : begin + kPiece;
  const T* x = static_cast<const T*>(p.x) + column;
  double sum = 0;
  Two extremes{INFINITY, -INFINITY};
#pragma unroll 8
  for (int place = begin; place < end; ++place) {
    const auto value = widen(x[int64_t(p.order[place].row) * dim]);
    sum += double(value);
    extremes.first = fminf(extremes.first, float(value));
    extremes.second = fmaxf(extremes.second, float(value));
  }
  p.piece_sums[int64_t(piece) * dim + column] = sum;
  p.piece_extremes[int64_t(piece) * dim + column] = extremes;
}

static __global__ void __launch_bounds__(kColumnThreads) find_means(Wave wave) {
  const Problem p = wave.problem(blockIdx.z);
  const int label = blockIdx.x, dim = wave.s.dim;
  const int column = int(blockIdx.y) * kColumnThreads + int(threadIdx.x);
  if (column >= dim) return;
  double sum = 0;
  Two extremes{INFINITY, -INFINITY};
  for (int piece = p.pieces[label]; piece < p.pieces[label + 1]; ++piece) {
    const Two theirs = p.piece_extremes[int64_t(piece) * dim + column];
    sum += p.piece_sums[int64_t(piece) * dim + column];
    extremes = {fminf(extremes.first, theirs.first), fmaxf(extremes.second, theirs.second)};
  }
  const int64_t count = p.counts[label], place = int64_t(label) * dim + column;
  const double mean = count > 0 ? sum / double(count) : 0.0;
  const float high = float(mean);
  p.means[place] = mean;
  p.split_means[place] = {high, float(mean - double(high))};
  p.extremes[place] = extremes;
}

// The mean of all rows and the range of each feature: 32 features a block, classes over 32 warps.
static __global__ void __launch_bounds__(kWarp* kWarp) find_ranges(Wave wave) {
  double* sums = shared_memory<double>();
  Two* extremes = reinterpret_cast<Two*>(sums + kWarp * kWarp);
  const Problem p = wave.problem(blockIdx.y);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, dim = wave.s.dim;
  const int column = int(blockIdx.x) * kWarp + lane;
  double sum = 0;
  Two mine{INFINITY, -INFINITY};
  if (column < dim)
#pragma unroll 4
    for (int label = warp; label < wave.s.classes; label += kWarp) {
      const int64_t place = int64_t(label) * dim + column;
      const Two theirs = p.extremes[place];
      sum += double(p.counts[label]) * p.means[place];
      mine = {fminf(mine.first, theirs.first), fmaxf(mine.second, theirs.second)};
    }
  sums[threadIdx.x] = sum;
  extremes[threadIdx.x] = mine;
  __syncthreads();
  if (warp > 0 || column >= dim) return;
  for (int other = 1; other < kWarp; ++other) {
    const Two theirs = extremes[other * kWarp + lane];
    sum += sums[other * kWarp + lane];
    mine = {fminf(mine.first, theirs.first), fmaxf(mine.second, theirs.second)};
  }
  const int rows = p.placed(wave.s);
  p.grand[column] = sum / double(rows > 0 ? rows : 1);
  p.ranges[column] = rows > 0 ? mine.second - mine.first : 0.0f;
}

}  // namespace awpf
