// The evidence from a sample of rows on which the choice of precision rests (common/precision.h).
#pragma once

#include "common/precision_sample.h"
#include "cuda/device/block.h"
#include "cuda/mmd/plan.h"

namespace awpf {

// Shared memory for one problem at a time.
struct PrecisionSample {
  int64_t row[kSampledRows];  // of z
  int32_t group[kSampledRows];
  double square[kSampledRows];
  double product[kSampledPairs];
  int64_t value_cell[kSampledPairs], product_cell[kSampledPairs];
  PrecisionEvidence seen;
  SumPrecision needed;
  double numbers[kWarp];
};

// The row of z at a position of the pool, which counts the rows and then the columns, and its group.
struct PoolEntry {
  int64_t row, group_begin, group_length;
  int group;
};

__device__ __forceinline__ PoolEntry entry_at(const Plan& plan, int64_t p, int64_t position) {
  const int64_t rows = plan.size(0, p);
  const int side = position < rows ? 0 : 1;
  const int64_t first = side == 0 ? 0 : rows;
  const RowRef found = plan.row_ref(side, p, position - first);
  return {found.row, first + plan.group_offset(side, p, found.group),
          plan.group_length(side, p * plan.groups[side] + found.group), found.group + (side == 0 ? 0 : plan.groups[0])};
}

// The sum of 1 / length of the two smallest groups of a side; of a single group, that of its own twice. One warp.
__device__ __forceinline__ double smallest_groups(const Plan& plan, int side, int64_t p) {
  const int lane = threadIdx.x % kWarp;
  int64_t smallest = INT64_MAX, second = INT64_MAX;
  const auto insert = [&](int64_t length) {
    second = smaller(second, larger(smallest, length));
    smallest = smaller(smallest, length);
  };
  for (int group = lane; group < plan.groups[side]; group += kWarp) {
    const int64_t length = plan.group_length(side, p * plan.groups[side] + group);
    if (length > 0) insert(length);
  }
  for (int by = 1; by < kWarp; by *= 2) {
    const int64_t other = __shfl_xor_sync(kWholeWarp, smallest, by);
    const int64_t other_second = __shfl_xor_sync(kWholeWarp, second, by);
    insert(other);
    second = smaller(second, larger(other_second, smallest));
  }
  return 1.0 / double(smallest) + 1.0 / double(second < INT64_MAX ? second : smallest);
}

__device__ __forceinline__ int64_t cell_of(double value, double cell) {
  return int64_t(floor(fmin(fmax(value / cell, -9e18), 9e18)));
}

// Stores the sum over all threads of a block.
__device__ __forceinline__ void add_up(double own, double& total, double* scratch) {
  const double sum = block_sum(own, scratch);
  if (threadIdx.x == 0) total = sum;
}

__device__ __forceinline__ void add_up(const PairSums& own, PairSums& total, double* scratch) {
  add_up(own.pairs, total.pairs, scratch);
  add_up(own.values, total.values, scratch);
  add_up(own.value_squares, total.value_squares, scratch);
  add_up(own.product_errors, total.product_errors, scratch);
  add_up(own.exponent_errors, total.exponent_errors, scratch);
}

// Chooses the precision of a problem whose rows would be multiplied relative to `centre`, or to the origin if that is
// null, at a mean squared distance of mean_square from it. All threads of a block; all get the answer.
__device__ __forceinline__ SumPrecision sampled_precision(const Plan& plan, int64_t p, const double* centre,
                                                          double mean_square, PrecisionSample& sample) {
  const int64_t pool = plan.pooled(p);
#if defined(AWPF_EMULATE)
  if (const int64_t fewest = emulator::single_precision_rows())
    return pool < fewest ? SumPrecision::fp64 : SumPrecision::fp32;
#endif
  const double* gamma = plan.gamma + p * plan.kernels;
  double widest = gamma[0], narrowest = gamma[0], sum_of_gammas = 0;
  for (int s = 0; s < plan.kernels; ++s) {
    widest = fmin(widest, gamma[s]);
    narrowest = fmax(narrowest, gamma[s]);
    sum_of_gammas += gamma[s];
  }
  if (!may_be_in_float(pool, mean_square, narrowest)) return SumPrecision::fp64;
  const int warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp, lane = threadIdx.x % kWarp;
  const bool in_pairs = plan.groups[0] + (plan.symmetric ? 0 : plan.groups[1]) > 2;
  __syncthreads();
  if (threadIdx.x < kSampledRows) {
    const uint32_t rows = uint32_t(smaller(pool, int64_t(UINT32_MAX)));
    const int k = int(threadIdx.x);
    const uint32_t position = sampled_position(k, rows, in_pairs, sample_key(rows));
    PoolEntry entry = entry_at(plan, p, position);
    sample.group[k] = entry.group;
    if (in_pairs && k % 2 == 1)
      entry = entry_at(plan, p, partner_in_group(position, entry.group_begin, entry.group_length));
    sample.row[k] = entry.row;
  }
  if (warp == 0) {
    double share = smallest_groups(plan, 0, p);
    if (!plan.symmetric) share = fmax(share, smallest_groups(plan, 1, p));
    if (lane == 0) sample.seen.smallest_groups = share;
  }
  __syncthreads();

  // Inner products by differences from the centre; those of the rows with themselves come last.
  for (int pair = warp; pair < kSampledPairs + kSampledRows; pair += warps) {
    int i = pair - kSampledPairs, j = i;
    if (pair < kSampledPairs) {
      i = 1;
      while ((i + 1) * i / 2 <= pair) ++i;
      j = pair - i * (i - 1) / 2;
    }
    const int64_t first = sample.row[i] * plan.dim, second = sample.row[j] * plan.dim;
    double sum = 0;
    for (int k = lane; k < plan.dim; k += kWarp) {
      const double origin = centre != nullptr ? centre[k] : 0.0;
      sum +=
          (load_double(plan.z, plan.type, first + k) - origin) * (load_double(plan.z, plan.type, second + k) - origin);
    }
    sum = warp_sum(sum);
    if (lane != 0) continue;
    if (pair < kSampledPairs)
      sample.product[pair] = sum;
    else
      sample.square[i] = sum;
  }
  __syncthreads();

  // Tensor cores add up the products of several features at once; how is not documented.
  const ProductChain chain{double(plan.dim), double(plan.dim)};
  PairSums all, within;
  for (int pair = threadIdx.x; pair < kSampledPairs; pair += blockDim.x) {
    int i = 1;
    while ((i + 1) * i / 2 <= pair) ++i;
    const int j = pair - i * (i - 1) / 2;
    SampledPair found{sample.product[pair], sample.square[i], sample.square[j], 0, 0};
    const double distance = fmax(0.0, found.square + found.other_square - 2 * found.product);
    for (int s = 0; s < plan.kernels; ++s) {
      const double value = exp(-gamma[s] * distance);
      found.value += value / plan.kernels;
      found.slope += 2 * gamma[s] * value / plan.kernels;
    }
    all.add(found, chain);
    if (in_pairs && sample.group[i] == sample.group[j]) within.add(found, chain);
    sample.value_cell[pair] = cell_of(distance, equal_value_cell() / widest);
    sample.product_cell[pair] = cell_of(found.product, equal_product_cell(mean_square));
  }
  PrecisionEvidence& seen = sample.seen;
  add_up(all, seen.all, sample.numbers);
  add_up(within, seen.within, sample.numbers);
  double equal_values = 0, equal_products = 0;
  for (int pair = threadIdx.x; pair < kSampledPairs; pair += blockDim.x)
    for (int other = 0; other < pair; ++other) {
      equal_values += sample.value_cell[other] == sample.value_cell[pair];
      equal_products += sample.product_cell[other] == sample.product_cell[pair];
    }
  add_up(equal_values, seen.equal_values, sample.numbers);
  add_up(equal_products, seen.equal_products, sample.numbers);
  const double square = threadIdx.x < kSampledRows ? sample.square[threadIdx.x] : 0.0;
  add_up(square / kSampledRows, seen.sampled_mean_square, sample.numbers);
  if (threadIdx.x == 0) {
    seen.chain = chain;
    seen.mean_gamma = sum_of_gammas / plan.kernels;
    seen.mean_square = mean_square;
    sample.needed = needed_precision(seen);
  }
  __syncthreads();
  return sample.needed;
}

}  // namespace awpf
