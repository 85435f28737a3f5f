// W = W_0 + sum_t U_t diag(c_t) V_t', for a batch.
//
// One product of depth K = sum_t r_t. FLOPs: 2 m n K (on tensor cores three times that for float32, twice for 16-bit
// input); bytes: (m + n) K read and written once more, and m n. The delta of a single term is never formed. The first
// kernel lays the terms of a row side by side, multiplies U by c, scales every row by a power of two and splits it into
// fp16 halves (split_tile.h). The second one multiplies, and adds W_0 to the tile in registers. The error of an entry
// is at most a few 2^-22 of |u_i| |v_j|. 16-bit input needs no low halves of V, since it has at most eleven bits.
// float64 input is multiplied in double precision.
#include <algorithm>

#include "common/allocate.h"
#include "common/low_rank.h"
#include "common/ops.h"
#include "cuda/device/arena.h"
#include "cuda/device/device.h"
#include "cuda/device/double_tile.h"
#include "cuda/device/elements.h"
#include "cuda/device/split_tile.h"

namespace awpf {
namespace {

constexpr int kPackThreads = 256;
constexpr int64_t kMaxBlocks = 65535;  // of a grid in y and z

// One operand: rows of `pitch` fp16 values, zero beyond the depth, scaled by 2^exponent.
struct PackedOperand {
  uint16_t *hi, *lo;
  int* exponents;
};

// Each warp packs a row of one operand. Only U has coefficients; V of 16-bit input has no low halves.
template <class T>
__global__ void __launch_bounds__(kPackThreads)
    pack_rows(const T* from, const double* coefficients, int64_t all_rows, int64_t rows, int terms, int rank, int pitch,
              PackedOperand to) {
  const int lane = threadIdx.x % kWarp, depth = terms * rank;
  const int64_t row = int64_t(blockIdx.x) * (kPackThreads / kWarp) + threadIdx.x / kWarp;
  if (row >= all_rows) return;
  const int64_t item = row / rows;
  const T* mine = from + (item * terms * rows + row % rows) * rank;
  const auto value = [&](int k) {
    const float element = widen(mine[k / rank * rows * rank + k % rank]);
    return coefficients == nullptr ? element : element * float(coefficients[item * depth + k]);
  };
  float largest = 0;
  for (int k = lane; k < depth; k += kWarp) largest = fmaxf(largest, fabsf(value(k)));
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, step));
  const int exponent = split_exponent(largest);
  const float scale = power_of_two(exponent);
  for (int k = lane; k < pitch; k += kWarp) {
    const float element = k < depth ? value(k) * scale : 0.0f;
    Split parts = split(element);
    if (fabsf(element) > 3.4e38f) parts.lo = 0;  // infinity minus infinity is NaN
    to.hi[row * pitch + k] = parts.hi;
    if (to.lo != nullptr) to.lo[row * pitch + k] = parts.lo;
  }
  if (lane == 0) to.exponents[row] = exponent;
}

// One slab of both operands in shared memory. There are two stages, so that one is copied while the other is
// multiplied.
template <bool kLow>
struct Stage {
  static constexpr int kParts = kLow ? 4 : 3;
  static constexpr size_t kBytes = size_t(kParts) * RowSlab::kSize * sizeof(uint16_t);
  uint16_t* data;

  __device__ __forceinline__ RowSlab part(int p) const { return {data + p * RowSlab::kSize}; }
  __device__ __forceinline__ SplitSlab<RowSlab> left() const { return {part(0), part(1)}; }
  __device__ __forceinline__ SplitSlab<RowSlab> right() const { return {part(2), part(kParts - 1)}; }
};

__device__ __forceinline__ void copy_slab(const RowSlab& to, const uint16_t* from, int64_t first_row, int64_t rows,
                                          int pitch, int depth) {
  static_assert(kSplitTile * kSplitSlab / 8 == kSplitThreads, "16 bytes per thread");
  const int row = threadIdx.x / 4, chunk = threadIdx.x % 4 * 8;
  const bool there = first_row + row < rows;
  const uint16_t* source = from + (there ? first_row + row : 0) * pitch + depth + chunk;
  cp_async_16(const_cast<uint16_t*>(to.data) + row * RowSlab::kStride + chunk, source, there);
}

template <class T, bool kLow>
__global__ void __launch_bounds__(kSplitThreads)
    multiply(PackedOperand u, PackedOperand v, const T* base, T* out, int64_t rows, int64_t columns, int pitch) {
  uint16_t* shared = shared_memory<uint16_t>();
  const int64_t item = blockIdx.z, first_row = int64_t(blockIdx.y) * kSplitTile;
  const int64_t first_column = int64_t(blockIdx.x) * kSplitTile;
  const auto stage = [&](int slab) {
    return Stage<kLow>{shared + slab % 2 * (Stage<kLow>::kBytes / sizeof(uint16_t))};
  };
  const auto fetch = [&](int slab) {
    const Stage<kLow> to = stage(slab);
    const int64_t u_item = item * rows * pitch, v_item = item * columns * pitch;
    copy_slab(to.part(0), u.hi + u_item, first_row, rows, pitch, slab * kSplitSlab);
    copy_slab(to.part(1), u.lo + u_item, first_row, rows, pitch, slab * kSplitSlab);
    copy_slab(to.part(2), v.hi + v_item, first_column, columns, pitch, slab * kSplitSlab);
    if (kLow) copy_slab(to.part(3), v.lo + v_item, first_column, columns, pitch, slab * kSplitSlab);
  };
  SplitTile tile;
  tile.clear();
  const int slabs = pitch / kSplitSlab;
  if (slabs > 0) fetch(0);
  cp_async_commit();
  for (int slab = 0; slab < slabs; ++slab) {
    if (slab + 1 < slabs) fetch(slab + 1);
    cp_async_commit();
    cp_async_wait<1>();
    __syncthreads();
    tile.template add<kLow>(stage(slab).left(), stage(slab).right(), [] {});
    __syncthreads();
  }
  const bool paired = columns % 2 == 0;
  struct alignas(2 * sizeof(T)) Pair {
    T first, second;
  };
  tile.for_pairs([&](int r, int c, float first, float second) {
    const int64_t row = first_row + r, column = first_column + c;
    if (row >= rows || column >= columns) return;
    const bool both = column + 1 < columns;
    const int exponent = u.exponents[item * rows + row];
    const int* right = v.exponents + item * columns + column;
    const int64_t index = (item * rows + row) * columns + column;
    first = scaled(first, -exponent - right[0]);
    second = both ? scaled(second, -exponent - right[1]) : 0.0f;
    if (base != nullptr) {
      first += widen(base[index]);
      if (both) second += widen(base[index + 1]);
    }
    Pair pair;
    narrow(first, &pair.first);
    narrow(second, &pair.second);
    if (paired) {
      *reinterpret_cast<Pair*>(out + index) = pair;
    } else {
      out[index] = pair.first;
      if (both) out[index + 1] = pair.second;
    }
  });
}

__global__ void __launch_bounds__(kDoubleThreads, 2)
    multiply_double(const double* u, const double* v, const double* coefficients, const double* base, double* out,
                    int64_t rows, int64_t columns, int terms, int rank) {
  double* shared = shared_memory<double>();
  const DoubleSlab left{shared}, right{shared + DoubleSlab::kSize};
  const int64_t item = blockIdx.z, first_row = int64_t(blockIdx.y) * kDoubleTile;
  const int64_t first_column = int64_t(blockIdx.x) * kDoubleTile;
  const int depth = terms * rank;
  const auto element = [&](const double* side, int64_t count, int64_t row, int k) {
    if (row >= count || k >= depth) return 0.0;
    return side[((item * terms + k / rank) * count + row) * rank + k % rank];
  };
  DoubleTile tile;
  tile.clear();
  for (int slab = 0; slab < depth; slab += kDoubleSlab) {
    left.fill<true>([&](int row, int k) {
      const double value = element(u, rows, first_row + row, slab + k);
      return slab + k < depth ? value * coefficients[item * depth + slab + k] : 0.0;
    });
    right.fill<true>([&](int row, int k) { return element(v, columns, first_column + row, slab + k); });
    __syncthreads();
    tile.add(left, right);
    __syncthreads();
  }
  tile.for_each([&](int r, int c, double value) {
    const int64_t row = first_row + r, column = first_column + c;
    if (row >= rows || column >= columns) return;
    const int64_t index = (item * rows + row) * columns + column;
    out[index] = base == nullptr ? value : value + base[index];
  });
}

// Calls f(first item, grid) for as many items at a time as fit into a grid.
template <class F>
void for_tiles(const LowRankShape& shape, int tile, F f) {
  const int64_t down = ceil_div<int64_t>(shape.rows, tile), across = ceil_div<int64_t>(shape.columns, tile);
  AWPF_CHECK(down <= kMaxBlocks, "u must have at most ", kMaxBlocks * tile, " rows, got ", shape.rows);
  for (int64_t first = 0; first < shape.batch; first += kMaxBlocks) {
    const int64_t count = std::min(shape.batch - first, kMaxBlocks);
    f(first, dim3(unsigned(across), unsigned(down), unsigned(count)));
  }
}

struct Call {
  Tensor u, v, coefficients;
  const void* base;
  void* out;
  LowRankShape shape;
  Stream stream;
};

void run(const Call& call, double) {
  const LowRankShape& s = call.shape;
  const size_t bytes = 2 * DoubleSlab::kSize * sizeof(double);
  for_tiles(s, kDoubleTile, [&](int64_t first, dim3 grid) {
    const auto* base = static_cast<const double*>(call.base);
    launch(multiply_double, grid, dim3(kDoubleThreads), bytes, call.stream,
           call.u.const_data_ptr<double>() + first * s.depth() * s.rows,
           call.v.const_data_ptr<double>() + first * s.depth() * s.columns,
           call.coefficients.const_data_ptr<double>() + first * s.depth(),
           base == nullptr ? base : base + first * s.rows * s.columns,
           static_cast<double*>(call.out) + first * s.rows * s.columns, s.rows, s.columns, int(s.terms), int(s.rank));
  });
}

template <class T>
void run(const Call& call, T) {
  constexpr bool kLow = sizeof(T) > 2;
  const LowRankShape& s = call.shape;
  const int pitch = int(round_up<int64_t>(s.depth(), kSplitSlab));
  const int64_t sizes[2] = {s.batch * s.rows, s.batch * s.columns};
  PackedOperand sides[2];
  const Tensor memory = allocate_arena(call.u, [&](Arena& arena) {
    for (int side = 0; side < 2; ++side) {
      sides[side].hi = arena.take<uint16_t>(sizes[side] * pitch);
      sides[side].lo = side == 0 || kLow ? arena.take<uint16_t>(sizes[side] * pitch) : nullptr;
      sides[side].exponents = arena.take<int>(sizes[side]);
    }
  });
  for (int side = 0; side < 2; ++side) {
    const Tensor& from = side == 0 ? call.u : call.v;
    launch(pack_rows<T>, dim3(unsigned(ceil_div<int64_t>(sizes[side], kPackThreads / kWarp))), dim3(kPackThreads), 0,
           call.stream, static_cast<const T*>(from.const_data_ptr()),
           side == 0 ? call.coefficients.const_data_ptr<double>() : nullptr, sizes[side],
           side == 0 ? s.rows : s.columns, int(s.terms), int(s.rank), pitch, sides[side]);
  }
  for_tiles(s, kSplitTile, [&](int64_t first, dim3 grid) {
    const auto from = [&](const PackedOperand& side, int64_t rows) {
      const int64_t skipped = first * rows;
      return PackedOperand{side.hi + skipped * pitch, side.lo == nullptr ? nullptr : side.lo + skipped * pitch,
                           side.exponents + skipped};
    };
    const auto* base = static_cast<const T*>(call.base);
    launch(multiply<T, kLow>, grid, dim3(kSplitThreads), 2 * Stage<kLow>::kBytes, call.stream, from(sides[0], s.rows),
           from(sides[1], s.columns), base == nullptr ? base : base + first * s.rows * s.columns,
           static_cast<T*>(call.out) + first * s.rows * s.columns, s.rows, s.columns, pitch);
  });
}

}  // namespace

Tensor low_rank_sum(Tensor u, Tensor v, Tensor coefficients, std::optional<Tensor> base) {
  const LowRankShape shape = check_low_rank(u, v, coefficients, base);
  AWPF_CHECK(shape.depth() < (int64_t(1) << 30), "u must have less than 2^30 terms times ranks, got ", shape.depth());
  Tensor result = allocate(u, {shape.batch, shape.rows, shape.columns}, u.scalar_type());
  if (shape.empty()) return result;
  const DeviceScope device(u);
  const Call call{u,
                  v,
                  coefficients,
                  base.has_value() ? base->const_data_ptr() : nullptr,
                  result.mutable_data_ptr(),
                  shape,
                  device.stream};
  with_element_type(u, "u", [&](auto element) { run(call, element); });
  return result;
}

}  // namespace awpf
