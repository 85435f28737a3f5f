// Sorts rows by class: a stable counting sort.
//
// Each block of rows counts its labels. One thread block turns the counts into the positions of the first rows, class
// by class and within a class block by block. Then one warp for each block of rows stores every row at its position.
// Bytes: the labels twice, the sorted rows once.
#include "cuda/device/device.h"
#include "cuda/scatter/batch.h"

namespace awpf {
namespace {

constexpr int kCountThreads = 256;
constexpr int kScanThreads = 1024;
constexpr int kAhead = 8;  // counts loaded before any is replaced: memory-level parallelism
constexpr unsigned kAll = 0xffffffffu;

__global__ void __launch_bounds__(kCountThreads) count_labels(ScatterBatch batch) {
  const Problem p = batch.problem(blockIdx.y);
  const int begin = int(blockIdx.x) * batch.sizes.block_rows;
  const int end = batch.sizes.rows - begin < batch.sizes.block_rows ? batch.sizes.rows : begin + batch.sizes.block_rows;
  int* counts = p.offsets + int64_t(blockIdx.x) * batch.sizes.classes;
  for (int row = begin + int(threadIdx.x); row < end; row += kCountThreads) {
    const int64_t label = p.labels[row];
    if (label >= 0 && label < batch.sizes.classes) atomicAdd(counts + label, 1);
  }
}

struct Pair {
  int rows, class_pieces;
};

// Exclusive prefix sums over the threads of the block; `total` is over all of them. `shared` has an element for each
// warp.
__device__ Pair sum_before(Pair mine, Pair* total, Pair* shared) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const auto up_to = [&](int value) {
    for (int step = 1; step < kWarp; step *= 2) {
      const int below = __shfl_up_sync(kAll, value, step);
      if (lane >= step) value += below;
    }
    return value;
  };
  const Pair within{up_to(mine.rows), up_to(mine.class_pieces)};
  if (lane == kWarp - 1) shared[warp] = within;
  __syncthreads();
  if (warp == 0) {
    const Pair theirs = shared[lane];
    shared[lane] = {up_to(theirs.rows), up_to(theirs.class_pieces)};
  }
  __syncthreads();
  const Pair before = warp == 0 ? Pair{0, 0} : shared[warp - 1];
  *total = shared[kScanThreads / kWarp - 1];
  __syncthreads();
  return {before.rows + within.rows - mine.rows, before.class_pieces + within.class_pieces - mine.class_pieces};
}

__global__ void __launch_bounds__(kScanThreads) find_positions(ScatterBatch batch) {
  Pair* shared = shared_memory<Pair>();
  const Problem p = batch.problem(blockIdx.x);
  const int classes = batch.sizes.classes, blocks = batch.sizes.blocks;
  Pair done{0, 0};
  for (int first = 0; first < classes; first += kScanThreads) {
    const int label = first + int(threadIdx.x);
    int* mine = p.offsets + label;
    int count = 0;
    if (label < classes)
      for (int block = 0; block < blocks; ++block) count += mine[int64_t(block) * classes];
    Pair total;
    const Pair before = sum_before({count, (count + kPiece - 1) / kPiece}, &total, shared);
    if (label < classes) {
      int position = done.rows + before.rows;
      p.counts[label] = count;
      p.class_starts[label] = position;
      p.class_pieces[label] = done.class_pieces + before.class_pieces;
      for (int block = 0; block < blocks; block += kAhead) {
        int counts[kAhead];
#pragma unroll
        for (int k = 0; k < kAhead; ++k) counts[k] = block + k < blocks ? mine[int64_t(block + k) * classes] : 0;
#pragma unroll
        for (int k = 0; k < kAhead; ++k) {
          if (block + k < blocks) mine[int64_t(block + k) * classes] = position;
          position += counts[k];
        }
      }
    }
    done = {done.rows + total.rows, done.class_pieces + total.class_pieces};
  }
  if (threadIdx.x == 0) {
    p.class_starts[classes] = done.rows;
    p.class_pieces[classes] = done.class_pieces;
  }
}

__global__ void __launch_bounds__(kWarp) place_rows(ScatterBatch batch) {
  const Problem p = batch.problem(blockIdx.y);
  const int lane = threadIdx.x, begin = int(blockIdx.x) * batch.sizes.block_rows;
  const int count =
      batch.sizes.rows - begin < batch.sizes.block_rows ? batch.sizes.rows - begin : batch.sizes.block_rows;
  int* next = p.offsets + int64_t(blockIdx.x) * batch.sizes.classes;
  for (int done = 0; done < count; done += kWarp) {
    const int row = begin + done + lane;
    const int64_t given = done + lane < count ? p.labels[row] : -1;
    const int label = given >= 0 && given < batch.sizes.classes ? int(given) : -1;
    int before = 0, alike = 0;
#pragma unroll
    for (int other = 0; other < kWarp; ++other) {
      const bool same = __shfl_sync(kAll, label, other) == label;
      alike += same;
      before += same && other < lane;
    }
    const int position = label < 0 ? 0 : next[label] + before;
    __syncwarp();
    if (label >= 0) {
      p.sorted_rows[position] = {row, label};
      if (before == alike - 1) next[label] = position + 1;
    }
    __syncwarp();
  }
}

}  // namespace

void sort_by_class(const ScatterBatch& batch, int problems, Stream stream) {
  const dim3 blocks(unsigned(batch.sizes.blocks), unsigned(problems));
  launch(count_labels, blocks, dim3(kCountThreads), 0, stream, batch);
  launch(find_positions, dim3(unsigned(problems)), dim3(kScanThreads), kWarp * sizeof(Pair), stream, batch);
  launch(place_rows, blocks, dim3(kWarp), 0, stream, batch);
}

}  // namespace awpf
