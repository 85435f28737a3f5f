// Divides a tile of kernel values into integers of eleven bits, and multiplies them with the members of permutations.
#pragma once

#include "cuda/mmd/partial_sums.h"

namespace awpf {

constexpr int kChunk = 128;  // permutations multiplied with a tile at a time: 32 by each warp
constexpr int kMaxParts = 5;
constexpr int kLeadingBits = 10, kPartBits = 11;

// A 64-bit integer in two's complement, of the type that atomicAdd takes.
using Total = unsigned long long;

struct PermutationBatch {
  Plan plan;
  int64_t problem, first, count;  // which permutations of which problem
  uint64_t seed;
  int parts;
  double whole;       // a power of two not below any sum of kernels: dividing by it is exact
  int64_t words;      // of 32 rows each, for a permutation
  int64_t padded;     // count rounded up to whole chunks
  uint32_t* members;  // [permutation][word]: bit k of word w marks row 32 w + k as one of the first sample
  Total* within;      // [part][permutation]: q
  Total* touching;    // [part][permutation]: u
  Total* row_sum;     // [part][row]: L1
  double* sums;       // of this problem, (permutations + 1, 3)

  __device__ int64_t size() const { return plan.size(0, problem); }
  // The size of the first sample.
  __device__ int64_t sample() const { return plan.group_length(0, problem * plan.groups[0]); }
  __device__ bool valid() const { return plan.tables_valid() && plan.scaling[problem].precision != Precision::invalid; }
};

// The kernel values of a tile, part by part, in shared memory.
struct TileParts {
  static constexpr int kStride = kTileColumns + 8;
  static constexpr int kSize = kStripRows * kStride;
};

__device__ __forceinline__ void add_exactly(Total* to, float whole) { atomicAdd(to, Total(int64_t(int(whole)))); }

// Stores the parts of kernel values between 0 and 1, and adds the sums of their rows to row_sum.
template <class T>
__device__ __forceinline__ void extract_parts(const PermutationBatch& call, int64_t strip, uint16_t* to,
                                              Fragment<T>& value) {
  for (int part = 0; part < call.parts; ++part) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = fragment_row(i);
      float row_sum = 0;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        uint32_t both = 0;
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const T scaled = value[i][j][e] * T(part == 0 ? 1 << kLeadingBits : 1 << kPartBits);
          const T whole = rint(scaled);
          value[i][j][e] = scaled - whole;
          row_sum += float(whole);
          both |= uint32_t(half_bits(float(whole))) << 16 * e;
        }
        *reinterpret_cast<uint32_t*>(to + part * TileParts::kSize + row * TileParts::kStride + fragment_column(j, 0)) =
            both;
      }
      row_sum += __shfl_xor_sync(kWholeWarp, row_sum, 1);
      row_sum += __shfl_xor_sync(kWholeWarp, row_sum, 2);
      const int64_t position = strip * kStripRows + row;
      if (threadIdx.x % 4 == 0 && position < call.size())
        add_exactly(call.row_sum + part * call.plan.rows_of_z + position, row_sum);
    }
  }
}

// Two neighbouring bits as fp16 numbers, 0 or 1.
__device__ __forceinline__ uint32_t two_halves(uint32_t bits) {
  return (bits & 1 ? 0x3c00u : 0u) | (bits & 2 ? 0x3c000000u : 0u);
}

// Multiplies the parts of a tile with the members of all permutations. For all threads.
__device__ __forceinline__ void multiply_members(const PermutationBatch& call, int64_t strip, int64_t tile,
                                                 const uint16_t* parts) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, top = warp / 4 * 32;
  for (int64_t chunk = warp % 4 * 32; chunk < call.padded; chunk += kChunk) {
    for (int part = 0; part < call.parts; ++part) {
      float sum[2][4][4] = {};
#pragma unroll
      for (int quarter = 0; quarter < 4; ++quarter) {
        uint32_t word[4];
#pragma unroll
        for (int n = 0; n < 4; ++n)
          word[n] = call.members[(chunk + n * 8 + lane / 4) * call.words + tile * 4 + quarter] >> lane % 4 * 2;
#pragma unroll
        for (int step = 0; step < 2; ++step) {
          uint32_t a[2][4];
#pragma unroll
          for (int i = 0; i < 2; ++i)
            ldmatrix_x4(a[i], parts + part * TileParts::kSize + (top + i * 16 + lane % 16) * TileParts::kStride +
                                  quarter * 32 + step * 16 + lane / 16 * 8);
#pragma unroll
          for (int n = 0; n < 4; ++n) {
            const uint32_t b0 = two_halves(word[n] >> step * 16), b1 = two_halves(word[n] >> (step * 16 + 8));
            mma_f16(sum[0][n], a[0], b0, b1);
            mma_f16(sum[1][n], a[1], b0, b1);
          }
        }
      }
#pragma unroll
      for (int n = 0; n < 4; ++n)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int64_t permutation = chunk + n * 8 + lane % 4 * 2 + e;
          const uint32_t mine = call.members[permutation * call.words + strip * 2 + warp / 4] >> lane / 4;
          float within = 0, touching = 0;
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const float found = sum[i / 2][n][i % 2 * 2 + e];
            touching += found;
            within += mine >> i * 8 & 1 ? found : 0.0f;
          }
#pragma unroll
          for (int by = 4; by < kWarp; by *= 2) {
            within += __shfl_xor_sync(kWholeWarp, within, by);
            touching += __shfl_xor_sync(kWholeWarp, touching, by);
          }
          if (lane < 4 && permutation < call.count) {
            add_exactly(call.within + part * call.padded + permutation, within);
            add_exactly(call.touching + part * call.padded + permutation, touching);
          }
        }
    }
  }
}

}  // namespace awpf
