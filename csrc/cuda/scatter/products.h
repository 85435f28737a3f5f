// Tiles of X'X over a range of rows: by split fp16 halves, which are made on the way to shared memory, or in double
// precision.
#pragma once

#include "cuda/device/elements.h"
#include "cuda/scatter/batch.h"

namespace awpf {

constexpr int kFlushSlabs = 64;  // slabs accumulated in single precision before they are added up in double

struct TileIndex {
  int row, column;  // counted in tiles, column <= row
};

__device__ __forceinline__ TileIndex lower_tile(int index) {
  int row = int((sqrt(8.0 * index + 1) - 1) / 2);
  while ((row + 1) * (row + 2) / 2 <= index) ++row;
  while (row * (row + 1) / 2 > index) --row;
  return {row, index - row * (row + 1) / 2};
}

// Four features of one side of a tile, which a thread reads from one row after the other. `scales` has those of the
// tile's features, in shared memory.
struct Features {
  int first, dim;
  bool aligned;
  const float* scales;

  __device__ __forceinline__ Features(int dim_, int tile, bool aligned_, const float* scales_)
      : first(tile * kSplitTile + int(threadIdx.x) % kWarp * 4), dim(dim_), aligned(aligned_), scales(scales_) {}

  template <class T>
  __device__ __forceinline__ void load(float (&to)[4], const Problem& p, int row) const {
    const T* from = static_cast<const T*>(p.x) + int64_t(row) * dim + first;
    load_four(to, from, dim - first, aligned && first < dim);
  }

  // Subtracts the class mean, scales and splits.
  __device__ __forceinline__ void store(const SplitSlab<DepthSlab>& to, int depth, const float (&value)[4],
                                        const Problem& p, int label) const {
    struct alignas(8) Four {
      uint16_t value[4];
    };
    Four hi{}, lo{};
    if (label >= 0) {
      const SplitMean* means = p.split_means + int64_t(label) * dim + first;
      const float* scale = scales + int(threadIdx.x) % kWarp * 4;
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const SplitMean mean = first + k < dim ? means[k] : SplitMean{0, 0};
        const Split parts = split((value[k] - mean.high - mean.low) * scale[k]);
        hi.value[k] = parts.hi;
        lo.value[k] = parts.lo;
      }
    }
    const int offset = depth * DepthSlab::kStride + int(threadIdx.x) % kWarp * 4;
    *reinterpret_cast<Four*>(const_cast<uint16_t*>(to.hi.data) + offset) = hi;
    *reinterpret_cast<Four*>(const_cast<uint16_t*>(to.lo.data) + offset) = lo;
  }
};

constexpr int kWarps = kSplitThreads / kWarp;
static_assert(kSplitSlab == 2 * kWarps, "each warp reads two rows of a slab");
constexpr size_t kStageHalves = 4 * DepthSlab::kSize;
constexpr size_t kSharedBytes = 2 * kStageHalves * sizeof(uint16_t) + 2 * kSplitTile * sizeof(float);

template <class T>
static __global__ void __launch_bounds__(kSplitThreads) multiply_split(ScatterBatch batch, bool aligned) {
  uint16_t* shared = shared_memory<uint16_t>();
  float* scales = reinterpret_cast<float*>(shared + 2 * kStageHalves);
  const Problem p = batch.problem(blockIdx.z);
  const SplitK split_k = batch.sizes.split;
  const TileIndex tile_index = lower_tile(blockIdx.x);
  const bool diagonal = tile_index.row == tile_index.column;
  if (threadIdx.x < 2 * kSplitTile) {
    const int tile = threadIdx.x < kSplitTile ? tile_index.row : tile_index.column;
    const int feature = tile * kSplitTile + int(threadIdx.x) % kSplitTile;
    scales[threadIdx.x] = feature < batch.sizes.dim ? power_of_two(split_exponent(p.feature_ranges[feature])) : 0.0f;
  }
  __syncthreads();
  const Features left(batch.sizes.dim, tile_index.row, aligned, scales);
  const Features right(batch.sizes.dim, tile_index.column, aligned, scales + kSplitTile);
  const int valid_rows = p.valid_rows(batch.sizes), warp = threadIdx.x / kWarp;
  const int64_t first = int64_t(blockIdx.y) * split_k.rows;
  const int begin = first < valid_rows ? int(first) : valid_rows;
  const int end = valid_rows - begin < split_k.rows ? valid_rows : begin + split_k.rows;
  const int slabs = ceil_div(end - begin, kSplitSlab);

  // Half a slab is fetched at a time, so that it takes fewer registers.
  float a[4], b[4];
  int label = -1;
  const auto fetch = [&](int slab, int half) {
    const int at = begin + slab * kSplitSlab + half * kWarps + warp;
    const SortedRow row = at < end ? p.sorted_rows[at] : SortedRow{0, -1};
    label = row.label;
    if (label >= 0) {
      left.template load<T>(a, p, row.row);
      if (!diagonal) right.template load<T>(b, p, row.row);
    }
  };
  const auto stage = [&](int slab, int side) {
    uint16_t* base = shared + slab % 2 * kStageHalves + (diagonal ? 0 : side) * 2 * DepthSlab::kSize;
    return SplitSlab<DepthSlab>{{base}, {base + DepthSlab::kSize}};
  };
  const auto store = [&](int slab, int half) {
    left.store(stage(slab, 0), half * kWarps + warp, a, p, label);
    if (!diagonal) right.store(stage(slab, 1), half * kWarps + warp, b, p, label);
  };

  // The address is computed here anew instead of occupying registers throughout the loop.
  const auto flush = [&](const SplitTile& tile, bool anew) {
    const int64_t index = int64_t(blockIdx.y) * split_k.tiles + blockIdx.x;
    double* sums = batch.problem(blockIdx.z).split_tiles + index * (kSplitTile * kSplitTile);
    tile.for_pairs([&](int r, int c, float one, float two) {
      double* to = sums + r * kSplitTile + c;
      to[0] = anew ? double(one) : to[0] + double(one);
      to[1] = anew ? double(two) : to[1] + double(two);
    });
  };
  const bool busy = !diagonal || SplitTile::first_column() <= SplitTile::first_row();
  SplitTile tile;
  tile.clear();
  if (slabs > 0) {
    fetch(0, 0);
    store(0, 0);
    fetch(0, 1);
    store(0, 1);
  }
  __syncthreads();
  for (int slab = 0; slab < slabs; ++slab) {
    const bool more = slab + 1 < slabs;
    const auto exchange = [&] {
      if (!more) return;
      store(slab + 1, 0);
      fetch(slab + 1, 1);
    };
    if (more) fetch(slab + 1, 0);
    if (busy)
      tile.template add<true>(stage(slab, 0), stage(slab, 1), exchange);
    else
      exchange();
    if (more) store(slab + 1, 1);
    __syncthreads();
    if (more && slab % kFlushSlabs == kFlushSlabs - 1 && busy) {
      flush(tile, slab < kFlushSlabs);
      tile.clear();
    }
  }
  if (busy) flush(tile, slabs <= kFlushSlabs);
}

// The rows of the within-class scatter: points minus their class means.
template <class T>
struct WithinRows {
  static __device__ __forceinline__ int count(const Problem& p, const Sizes& s) { return p.valid_rows(s); }
  static __device__ __forceinline__ double at(const Problem& p, const Sizes& s, int position, int column) {
    const SortedRow row = p.sorted_rows[position];
    return double(widen(static_cast<const T*>(p.x)[int64_t(row.row) * s.dim + column])) -
           p.means[int64_t(row.label) * s.dim + column];
  }
  static __device__ __forceinline__ SplitK split_k(const Sizes& s) { return s.fp64; }
  static __device__ __forceinline__ double* tiles(const Problem& p) { return p.fp64_tiles; }
};

// The rows of the between-class scatter: class means minus the mean of all, times the square root of their counts.
struct BetweenRows {
  static __device__ __forceinline__ int count(const Problem&, const Sizes& s) { return s.classes; }
  static __device__ __forceinline__ double at(const Problem& p, const Sizes& s, int label, int column) {
    const int64_t rows = p.counts[label];
    return rows > 0 ? sqrt(double(rows)) * (p.means[int64_t(label) * s.dim + column] - p.grand_mean[column]) : 0.0;
  }
  static __device__ __forceinline__ SplitK split_k(const Sizes& s) { return s.between; }
  static __device__ __forceinline__ double* tiles(const Problem& p) { return p.between_tiles; }
};

template <class Rows>
static __global__ void __launch_bounds__(kDoubleThreads, 2) multiply_fp64(ScatterBatch batch, bool only_if_needed) {
  double* shared = shared_memory<double>();
  const DoubleSlab left{shared}, right{shared + DoubleSlab::kSize};
  const Problem p = batch.problem(blockIdx.z);
  if (only_if_needed && *p.needs_fp64 == 0) return;
  const SplitK split_k = Rows::split_k(batch.sizes);
  const TileIndex tile_index = lower_tile(blockIdx.x);
  const int count = Rows::count(p, batch.sizes), dim = batch.sizes.dim;
  const int64_t first = int64_t(blockIdx.y) * split_k.rows;
  const int begin = first < count ? int(first) : count;
  const int end = count - begin < split_k.rows ? count : begin + split_k.rows;
  const auto fill = [&](const DoubleSlab& side, int tile, int at) {
    side.fill<false>([&](int row, int depth) {
      const int column = tile * kDoubleTile + row;
      return at + depth < end && column < dim ? Rows::at(p, batch.sizes, at + depth, column) : 0.0;
    });
  };
  DoubleTile tile;
  tile.clear();
  for (int at = begin; at < end; at += kDoubleSlab) {
    fill(left, tile_index.row, at);
    fill(right, tile_index.column, at);
    __syncthreads();
    tile.add(left, right);
    __syncthreads();
  }
  double* sums = Rows::tiles(p) + (int64_t(blockIdx.y) * split_k.tiles + blockIdx.x) * (kDoubleTile * kDoubleTile);
  tile.for_each([&](int r, int c, double value) { sums[r * kDoubleTile + c] = value; });
}

}  // namespace awpf
