// The evidence from a sample of rows on which the choice of precision rests (common/precision.h).
#pragma once

#include "common/precision_sample.h"
#include "cuda/device/block.h"
#include "cuda/mmd/plan.h"

namespace awpf {

// Shared memory for one problem at a time.
struct PrecisionSample {
  int64_t row[kSampledRows];  // of z
  double square[kSampledRows];
  double product[kSampledPairs];
  int64_t value_cell[kSampledPairs], product_cell[kSampledPairs];
  PrecisionEvidence seen;
  SumPrecision needed;
  int32_t groups_need_double;
  double numbers[kWarp];
};

// The row of z at a position of the pool, which counts the rows and then the columns.
__device__ __forceinline__ int64_t row_at(const Plan& plan, int64_t p, int64_t position) {
  const int64_t rows = plan.size(0, p);
  return position < rows ? plan.row_ref(0, p, position).row : plan.row_ref(1, p, position - rows).row;
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

// The inner product of two rows relative to the centre, or to the origin if that is null. One warp.
__device__ __forceinline__ double centred_product(const Plan& plan, const double* centre, int64_t row, int64_t other) {
  double sum = 0;
  for (int k = threadIdx.x % kWarp; k < plan.dim; k += kWarp) {
    const double origin = centre != nullptr ? centre[k] : 0.0;
    sum += (load_double(plan.z, plan.type, row * plan.dim + k) - origin) *
           (load_double(plan.z, plan.type, other * plan.dim + k) - origin);
  }
  return warp_sum(sum);
}

// Fills in the value and the slope of a pair; returns its squared distance.
__device__ __forceinline__ double evaluate(const double* gamma, int kernels, SampledPair& pair) {
  const double distance = fmax(0.0, pair.square + pair.other_square - 2 * pair.product);
  for (int s = 0; s < kernels; ++s) {
    const double value = exp(-gamma[s] * distance);
    pair.value += value / kernels;
    pair.slope += 2 * gamma[s] * value / kernels;
  }
  return distance;
}

// Whether pairs within a group speak against products in single precision. One warp.
__device__ __forceinline__ bool group_needs_double(const Plan& plan, int64_t p, const double* centre, int64_t number,
                                                   int64_t groups, const ProductChain& chain) {
  const int side = number < plan.groups[0] ? 0 : 1;
  const int64_t group = p * plan.groups[side] + number - (side == 0 ? 0 : plan.groups[0]);
  const int64_t begin = plan.group_begin(side, group), length = plan.group_length(side, group);
  if (length < 2) return false;
  PairSums within;
  for (int k = 0; k < pairs_in_group(groups); ++k) {
    const RowPair rows = sampled_pair(number, k, length);
    const int64_t first = begin + rows.first, second = begin + rows.second;
    SampledPair pair{centred_product(plan, centre, first, second), centred_product(plan, centre, first, first),
                     centred_product(plan, centre, second, second), 0, 0};
    evaluate(plan.gamma + p * plan.kernels, plan.kernels, pair);
    within.add(pair, chain);
  }
  return !group_may_be_in_float(within, length);
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
  const int64_t groups = plan.groups[0] + (plan.symmetric ? 0 : plan.groups[1]);
  // Tensor cores add up the products of several features at once; how is not documented.
  const ProductChain chain{double(plan.dim), double(plan.dim)};
  __syncthreads();
  if (threadIdx.x < kSampledRows) {
    const uint32_t rows = uint32_t(smaller(pool, int64_t(UINT32_MAX)));
    const int k = int(threadIdx.x);
    sample.row[k] = row_at(plan, p, sampled_position(k, rows, sample_key(rows)));
  }
  if (threadIdx.x == 0) sample.groups_need_double = 0;
  if (warp == 0) {
    double share = smallest_groups(plan, 0, p);
    if (!plan.symmetric) share = fmax(share, smallest_groups(plan, 1, p));
    if (lane == 0) sample.seen.smallest_groups = share;
  }
  __syncthreads();

  const int64_t looked_at = smaller(groups, int64_t(kMostSampledGroups));
  for (int64_t k = warp; k < looked_at; k += warps)
    if (group_needs_double(plan, p, centre, k * groups / looked_at, groups, chain) && lane == 0)
      sample.groups_need_double = 1;
  // Products of the rows of the sample; those with themselves come last.
  for (int pair = warp; pair < kSampledPairs + kSampledRows; pair += warps) {
    int i = pair - kSampledPairs, j = i;
    if (pair < kSampledPairs) {
      i = 1;
      while ((i + 1) * i / 2 <= pair) ++i;
      j = pair - i * (i - 1) / 2;
    }
    const double sum = centred_product(plan, centre, sample.row[i], sample.row[j]);
    if (lane != 0) continue;
    if (pair < kSampledPairs)
      sample.product[pair] = sum;
    else
      sample.square[i] = sum;
  }
  __syncthreads();

  PairSums all;
  for (int pair = threadIdx.x; pair < kSampledPairs; pair += blockDim.x) {
    int i = 1;
    while ((i + 1) * i / 2 <= pair) ++i;
    const int j = pair - i * (i - 1) / 2;
    SampledPair found{sample.product[pair], sample.square[i], sample.square[j], 0, 0};
    const double distance = evaluate(gamma, plan.kernels, found);
    all.add(found, chain);
    sample.value_cell[pair] = cell_of(distance, equal_value_cell() / widest);
    sample.product_cell[pair] = cell_of(found.product, equal_product_cell(mean_square));
  }
  PrecisionEvidence& seen = sample.seen;
  add_up(all, seen.all, sample.numbers);
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
    sample.needed = sample.groups_need_double != 0 ? SumPrecision::fp64 : needed_precision(seen);
  }
  __syncthreads();
  return sample.needed;
}

}  // namespace awpf
