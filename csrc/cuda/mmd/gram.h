// A tile of 64 x 128 inner products between pooled points on fp16 tensor cores, or of exponents in double precision.
//
// Both forms leave the same fragment of 4 x 4 x 2 values in a thread: value[i][j][e] belongs to row fragment_row(i) and
// column fragment_column(j, e). So everything after the product is written once.
#pragma once

#include "cuda/device/block.h"
#include "cuda/device/split_tile.h"
#include "cuda/mmd/plan.h"

namespace awpf {

constexpr int kGramThreads = 256;
constexpr int kTilePoints = kStripRows + kTileColumns;

__device__ __forceinline__ int fragment_row(int i) {
  return int(threadIdx.x) / (4 * kWarp) * 32 + i * 8 + int(threadIdx.x) % kWarp / 4;
}
__device__ __forceinline__ int fragment_column(int j, int e) {
  return int(threadIdx.x) / kWarp % 4 * 32 + j * 8 + int(threadIdx.x) % 4 * 2 + e;
}

// The threads that compute a tile together, and which of its values each one holds: value[i][j][e] belongs to row(i)
// and column(j, e). Here all threads of a block; warpgroup_sums.cu has another one.
struct ThreadBlock {
  static constexpr int kThreads = kGramThreads, kRows = 4, kColumns = 4;
  __device__ __forceinline__ static int rank() { return threadIdx.x; }
  __device__ __forceinline__ static void sync() { __syncthreads(); }
  __device__ __forceinline__ static int row(int i) { return fragment_row(i); }
  __device__ __forceinline__ static int column(int j, int e) { return fragment_column(j, e); }
};

template <class T, class ThreadGroup = ThreadBlock>
using Fragment = T[ThreadGroup::kRows][ThreadGroup::kColumns][2];

// The points of a tile, in shared memory: its rows first, then its columns.
template <class T>
struct TilePoints {
  int64_t row[kTilePoints];  // of z; -1 beyond the end of the problem
  T norm[kTilePoints], rest[kTilePoints];
  int group[kTilePoints];
  double scratch[kGramThreads / kWarp];

  template <class ThreadGroup>
  __device__ __forceinline__ void fill(const Plan& plan, int side, int64_t problem, int64_t begin, int first,
                                       int count) {
    for (int k = ThreadGroup::rank(); k < count; k += ThreadGroup::kThreads) {
      row[first + k] = -1;
      norm[first + k] = rest[first + k] = T(0);
      group[first + k] = -1;
      if (begin + k >= plan.size(side, problem)) continue;
      const RowRef at = plan.row_ref(side, problem, begin + k);
      const double half_norm = plan.half_norm[at.row];
      row[first + k] = at.row;
      norm[first + k] = T(half_norm);
      rest[first + k] = T(half_norm - double(T(half_norm)));
      group[first + k] = at.group;
    }
  }
  template <class ThreadGroup = ThreadBlock>
  __device__ __forceinline__ void fill_rows(const Plan& plan, int side, int64_t problem, int64_t strip) {
    fill<ThreadGroup>(plan, side, problem, strip * kStripRows, 0, kStripRows);
  }
  template <class ThreadGroup = ThreadBlock>
  __device__ __forceinline__ void fill_columns(const Plan& plan, int side, int64_t problem, int64_t tile) {
    fill<ThreadGroup>(plan, side, problem, tile * kTileColumns, kStripRows, kTileColumns);
  }
};

// Inner products of packed points: cp.async copies fp16 halves in three stages, ldmatrix loads the fragments.
struct SplitGram {
  using Value = float;
  static constexpr int kStages = 3;
  static constexpr int kPartSize = kTilePoints * RowSlab::kStride;  // one slab of high or of low halves
  static constexpr size_t kSharedBytes = kStages * 2 * kPartSize * sizeof(uint16_t);
  static constexpr int kBlocksEach = 1;  // blocks of a multiprocessor: two would spill a few registers
  static constexpr int kAtOnce = 4;      // kernel values computed side by side: instruction-level parallelism

  __device__ __forceinline__ static bool computes(Precision precision) {
    return precision == Precision::fp16 || precision == Precision::fp16_split;
  }

  // For all threads. The caller has filled `tile_points` and passed a barrier; `shared` is free again afterwards.
  __device__ __forceinline__ static bool multiply(const Plan& plan, int64_t, Precision precision,
                                                  const TilePoints<float>& tile_points, void* shared,
                                                  Fragment<float>& value) {
    constexpr int kEach = kTilePoints * 4 / kGramThreads;  // chunks of 16 bytes that a thread copies of each half
    uint16_t* const stage = static_cast<uint16_t*>(shared);
    const bool split = precision == Precision::fp16_split;
    const int chunk = threadIdx.x % 4 * 8, slabs = plan.pitch / kPackedSlab;
    const auto load = [&](int slab) {
      if (slab < slabs) {
        uint16_t* const to = stage + slab % kStages * 2 * kPartSize + threadIdx.x / 4 * RowSlab::kStride + chunk;
#pragma unroll
        for (int k = 0; k < kEach; ++k) {
          const int64_t row = tile_points.row[threadIdx.x / 4 + k * (kGramThreads / 4)];
          const bool valid = row >= 0;
          const int64_t at = valid ? row * plan.pitch + slab * kPackedSlab + chunk : 0;
          const int offset = k * (kGramThreads / 4) * RowSlab::kStride;
          cp_async_16(to + offset, plan.hi + at, valid);
          if (split) cp_async_16(to + kPartSize + offset, plan.lo + at, valid);
        }
      }
      cp_async_commit();
    };

    SplitTile tile;
    tile.clear();
#pragma unroll
    for (int s = 0; s < kStages - 1; ++s) load(s);
    for (int slab = 0; slab < slabs; ++slab) {
      cp_async_wait<kStages - 2>();
      __syncthreads();
      load(slab + kStages - 1);
      const uint16_t* const high = stage + slab % kStages * 2 * kPartSize;
      const uint16_t* const low = high + kPartSize;
      constexpr int kColumns = kStripRows * RowSlab::kStride;
      if (split)
        tile.add<true>(SplitSlab<RowSlab>{{high}, {low}}, SplitSlab<RowSlab>{{high + kColumns}, {low + kColumns}},
                       [] {});
      else
        add_high(tile, {high}, {high + kColumns});
    }
    cp_async_wait<0>();
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j)
#pragma unroll
        for (int e = 0; e < 2; ++e) value[i][j][e] = tile.sum[i / 2][j][i % 2 * 2 + e];
    return false;
  }

  // Adds the product of the high halves alone.
  __device__ __forceinline__ static void add_high(SplitTile& tile, const RowSlab& rows, const RowSlab& columns) {
#pragma unroll
    for (int depth = 0; depth < kPackedSlab; depth += 16) {
      uint32_t b[2][4];
#pragma unroll
      for (int j = 0; j < 2; ++j) columns.b(b[j], SplitTile::first_column() + j * 16, depth);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        uint32_t a[4];
        rows.a(a, SplitTile::first_row() + i * 16, depth);
        float product[4][4] = {};
#pragma unroll
        for (int j = 0; j < 4; ++j) mma_f16(product[j], a, b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
#pragma unroll
        for (int j = 0; j < 4; ++j)
#pragma unroll
          for (int k = 0; k < 4; ++k) tile.sum[i][j][k] += product[j][k];
      }
    }
  }
};

// Exponents of the widest kernel, from inner products in double precision. Points are centred as they are read, without
// a packed copy. Distances that the products lose (common/lost_distances.h) are computed by differences.
struct DoubleGram {
  using Value = double;
  static constexpr int kSlab = 16;
  static constexpr int kStride = kSlab + 4;  // no bank conflicts: four rows of four depths lie in different banks
  static constexpr size_t kSharedBytes = kTilePoints * kStride * sizeof(double);
  static constexpr int kBlocksEach = 1;
  static constexpr int kAtOnce = 2;

  __device__ __forceinline__ static bool computes(Precision precision) { return precision == Precision::fp64; }

  // Returns whether this thread has a pair whose distance was lost.
  __device__ __forceinline__ static bool multiply(const Plan& plan, int64_t problem, Precision,
                                                  const TilePoints<double>& tile_points, void* shared,
                                                  Fragment<double>& value) {
    constexpr int kEach = kTilePoints * kSlab / kGramThreads;
    double* const slab = static_cast<double*>(shared);
    const double* const centre = plan.centre + problem * plan.dim;
    const int lane = threadIdx.x % kWarp, depth = threadIdx.x % kSlab, first = threadIdx.x / kSlab;
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) value[i][j][0] = value[i][j][1] = 0;
    for (int begin = 0; begin < plan.dim; begin += kSlab) {
      const int k = begin + depth;
      const double middle = k < plan.dim ? centre[k] : 0;
      __syncthreads();
#pragma unroll 4
      for (int p = 0; p < kEach; ++p) {
        const int place = first + p * (kGramThreads / kSlab);
        const int64_t row = tile_points.row[place];
        const bool valid = row >= 0 && k < plan.dim;
        slab[place * kStride + depth] = valid ? load_double(plan.z, plan.type, row * plan.dim + k) - middle : 0;
      }
      __syncthreads();
      const double* const rows = slab + fragment_row(0) * kStride + lane % 4;
      const double* const columns =
          slab + (kStripRows + int(threadIdx.x) / kWarp % 4 * 32 + lane / 4) * kStride + lane % 4;
#pragma unroll
      for (int step = 0; step < kSlab; step += 4) {
        double a[4], b[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          a[i] = rows[i * 8 * kStride + step];
          b[i] = columns[i * 8 * kStride + step];
        }
#pragma unroll
        for (int i = 0; i < 4; ++i)
#pragma unroll
          for (int j = 0; j < 4; ++j) mma_f64(value[i][j], a[i], b[j]);
      }
    }
    __syncthreads();
    const Scaling& scaling = plan.scaling[problem];
    const uint32_t lost = to_exponents(scaling.lost, scaling.unit, tile_points, value);
    if (__any_sync(kWholeWarp, lost != 0)) restore(plan, sqrt(scaling.unit), tile_points, lost, value);
    return lost != 0;
  }

  // Turns inner products into exponents; returns a bit for each that is lost, at i * 8 + j * 2 + e.
  __device__ __forceinline__ static uint32_t to_exponents(const LostDistances& lost, double unit,
                                                          const TilePoints<double>& tile_points,
                                                          Fragment<double>& value) {
    double longest_row = 0, longest_column = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const double row = tile_points.norm[fragment_row(i)];
      longest_row = fmax(longest_row, row);
#pragma unroll
      for (int k = 0; k < 8; ++k) {
        const double column = tile_points.norm[kStripRows + fragment_column(k / 2, k % 2)];
        longest_column = fmax(longest_column, column);
        value[i][k / 2][k % 2] = fmin((value[i][k / 2][k % 2] - row) - column, 0.0) * unit;
      }
    }
    uint32_t found = 0;
    if ((longest_row + longest_column) * unit <= lost.limit) return found;
#pragma unroll
    for (int k = 0; k < 32; ++k) {
      const int row = fragment_row(k / 8), column = kStripRows + fragment_column(k / 2 % 4, k % 2);
      const double norms = (tile_points.norm[row] + tile_points.norm[column]) * unit;
      const bool exists = tile_points.row[row] >= 0 && tile_points.row[column] >= 0;
      if (exists && lost.concerns(value[k / 8][k / 2 % 4][k % 2], norms)) found |= 1u << k;
    }
    return found;
  }

  // Computes the exponents of the lost pairs of a warp, one after the other; its lanes share the features. `scale` is
  // the root of the unit. The whole warp.
  __device__ __forceinline__ static void restore(const Plan& plan, double scale, const TilePoints<double>& tile_points,
                                                 uint32_t lost, Fragment<double>& value) {
    const int lane = threadIdx.x % kWarp;
#pragma unroll 1
    for (int k = 0; k < 32; ++k) {
      const uint32_t owners = __ballot_sync(kWholeWarp, lost >> k & 1);
      const int row = fragment_row(k / 8), column = kStripRows + fragment_column(k / 2 % 4, k % 2);
      double mine = 0;
#pragma unroll 1
      for (int owner = 0; owner < kWarp; ++owner) {
        if ((owners >> owner & 1) == 0) continue;
        const int64_t first = tile_points.row[__shfl_sync(kWholeWarp, row, owner)] * plan.dim;
        const int64_t second = tile_points.row[__shfl_sync(kWholeWarp, column, owner)] * plan.dim;
        double square = 0;
        for (int feature = lane; feature < plan.dim; feature += kWarp) {
          const double difference =
              load_double(plan.z, plan.type, first + feature) - load_double(plan.z, plan.type, second + feature);
          square += difference * scale * (difference * scale);
        }
        square = warp_sum(square);
        if (lane == owner) mine = -0.5 * square;
      }
      const bool is_mine = (lost >> k & 1) != 0;
#pragma unroll
      for (int at = 0; at < 32; ++at)
        if (is_mine && at == k) value[at / 8][at / 2 % 4][at % 2] = mine;
    }
  }
};

}  // namespace awpf
