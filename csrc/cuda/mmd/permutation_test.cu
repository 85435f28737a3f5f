// The null distribution of a two-sample statistic: block sums of one kernel matrix under random permutations of its
// rows.
//
// Let L be the strict lower triangle of the kernel matrix and s in {0, 1}^n mark the first sample of a permutation. All
// block sums follow from V = L S for all permutations at once: q = s'Ls, u = 1'Ls and t = s'L1. FLOPs for B
// permutations: n^2 d for the triangle (three times that with split halves), and n^2 B for each part of L; memory: n B
// bits of members.
//
// The statistic is a small difference of these sums, so they are computed exactly. Kernel values are divided into parts
// of eleven bits, which are integers to the tensor cores: multiplied with zeros and ones they add up to 2^17 without
// rounding, and totals are 64-bit integers. The order of integer additions does not matter, so blocks may use atomics.
// Three parts keep a kernel value to 2^-33, five (for float64 input) to 2^-55. Launches: four for each
// kBatchPermutations permutations of a problem. Permutation 0 is the given assignment, so that the statistic and its
// null distribution share every rounding.
#include <torch/csrc/stable/ops.h>

#include "common/allocate.h"
#include "common/shuffle.h"
#include "cuda/device/device.h"
#include "cuda/mmd/permutation_test_parts.h"

namespace awpf {
namespace {

constexpr int64_t kBatchPermutations = 2048;

constexpr int kMemberThreads = 256;

// Each block stores the members of one permutation and clears its sums.
__global__ void __launch_bounds__(kMemberThreads) members_kernel(PermutationBatch call) {
  ShuffleKey* const key = shared_memory<ShuffleKey>();
  if (!call.valid()) return;
  const int64_t permutation = blockIdx.x, number = call.first + permutation, size = call.size(), sample = call.sample();
  const bool exists = permutation < call.count;
  if (threadIdx.x == 0) *key = shuffle_key(call.seed, uint64_t(number), uint64_t(size));
  __syncthreads();
  for (int64_t word = threadIdx.x; word < call.words; word += kMemberThreads) {
    uint32_t bits = 0;
    for (int k = 0; k < 32 && exists; ++k) {
      const int64_t position = word * 32 + k;
      if (position >= size) break;
      const int64_t to = number == 0 ? position : int64_t(shuffled(uint32_t(position), uint32_t(size), *key));
      bits |= uint32_t(to < sample) << k;
    }
    call.members[permutation * call.words + word] = bits;
  }
  for (int part = threadIdx.x; part < call.parts; part += kMemberThreads)
    call.within[part * call.padded + permutation] = call.touching[part * call.padded + permutation] = 0;
  for (int64_t k = permutation * kMemberThreads + threadIdx.x; k < call.parts * call.plan.rows_of_z;
       k += int64_t(gridDim.x) * kMemberThreads)
    call.row_sum[k] = 0;
}

template <class Gram>
size_t region_bytes(int parts) {
  const size_t needed = parts * TileParts::kSize * sizeof(uint16_t);
  return needed > Gram::kSharedBytes ? needed : Gram::kSharedBytes;
}

template <class Gram>
__global__ void __launch_bounds__(kGramThreads, 1) permutations_kernel(PermutationBatch call, size_t region) {
  using T = typename Gram::Value;
  char* const shared = shared_memory<char>();
  TilePoints<T>& tile_points = *reinterpret_cast<TilePoints<T>*>(shared + region);
  const Plan& plan = call.plan;
  const int64_t p = call.problem;
  if (!call.valid()) return;
  const Scaling scaling = plan.scaling[p];
  if (!Gram::computes(scaling.precision)) return;
  const Schedule schedule = plan.schedule(p);
  const KernelStep* const steps = plan.steps + p * plan.kernels;
  const T unit = T(scaling.unit), share = T(1.0 / call.whole);
  for (int64_t item = blockIdx.x; item < schedule.items(); item += gridDim.x) {
    const TileRange range = schedule.range(item);
    if (range.begin >= range.end) continue;
    __syncthreads();
    tile_points.fill_rows(plan, 0, p, range.strip);
    for (int tile = range.begin; tile < range.end; ++tile) {
      __syncthreads();
      tile_points.fill_columns(plan, 0, p, tile);
      __syncthreads();
      Fragment<T> value;
      Gram::multiply(plan, p, scaling.precision, tile_points, shared, value);
      const TileMask mask(schedule, range.strip, tile, true);
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int first = 0; first < 8; first += Gram::kAtOnce) {
          T sums[Gram::kAtOnce];
          kernel_sums<false>(plan, steps, unit, tile_points, value, i, first, sums, sums);
#pragma unroll
          for (int k = 0; k < Gram::kAtOnce; ++k) {
            const int j = (first + k) / 2, e = k % 2;
            const T part = sums[k] * share;
            value[i][j][e] = mask(fragment_row(i), fragment_column(j, e)) ? (part < T(1) ? part : T(1)) : T(0);
          }
        }
      extract_parts(call, range.strip, reinterpret_cast<uint16_t*>(shared), value);
      __syncthreads();
      multiply_members(call, range.strip, tile, reinterpret_cast<const uint16_t*>(shared));
    }
  }
}

constexpr int kFinishThreads = 256;

// Each block finds t = s'L1 of one permutation, and from q, u and t the three block sums.
__global__ void __launch_bounds__(kFinishThreads) finish_kernel(PermutationBatch call) {
  int64_t* const scratch = shared_memory<int64_t>();
  const int64_t permutation = blockIdx.x;
  double* const out = call.sums + (call.first + permutation) * 3;
  if (!call.valid()) {
    if (threadIdx.x < 3) out[threadIdx.x] = nan("");
    return;
  }
  const int64_t size = call.size();
  double within = 0, touching = 0, total = 0;
  for (int part = call.parts - 1; part >= 0; --part) {
    int64_t mine = 0, all = 0;
    for (int64_t position = threadIdx.x; position < size; position += kFinishThreads) {
      const int64_t row = int64_t(call.row_sum[part * call.plan.rows_of_z + position]);
      all += row;
      if (call.members[permutation * call.words + position / 32] >> position % 32 & 1) mine += row;
    }
    mine = block_sum(mine, scratch);
    all = block_sum(all, scratch);
    const double unit = ldexp(call.whole, -(kLeadingBits + part * kPartBits));
    within += double(int64_t(call.within[part * call.padded + permutation])) * unit;
    touching += double(int64_t(call.touching[part * call.padded + permutation]) + mine) * unit;
    total += double(all) * unit;
  }
  if (threadIdx.x > 0) return;
  const double n = double(call.sample()), kernels = call.plan.kernels;
  out[0] = 2 * within / kernels + n;
  out[1] = (touching - 2 * within) / kernels;
  out[2] = 2 * (total - touching + within) / kernels + (double(size) - n);
}

template <class Gram>
void launch_permutations(const PermutationBatch& call, Stream stream) {
  const size_t region = region_bytes<Gram>(call.parts);
  const int64_t most = max_strips(call.plan.rows_of_z, 1) * kSegments;
  launch(permutations_kernel<Gram>, dim3(unsigned(smaller(most, multiprocessors()))), dim3(kGramThreads),
         region + sizeof(TilePoints<typename Gram::Value>), stream, call, region);
}

}  // namespace

Tensor rbf_permutation_sums(Tensor z, Tensor rows, Tensor gamma, int64_t permutations, int64_t seed, bool allow_fp16) {
  AWPF_CHECK(rows.dim() == 3 && rows.size(1) == 2, "rows must hold two groups a problem");
  AWPF_CHECK(permutations >= 0 && permutations < INT64_MAX, "permutations must be from 0 to 2^63 - 2, got ",
             permutations);
  AWPF_CHECK(z.size(0) < int64_t(1) << 31, "at most 2^31 - 1 pooled rows");
  const DeviceScope scope(z);
  const Prepared prepared = prepare(z, rows, std::nullopt, gamma, std::nullopt, allow_fp16, false, scope.stream);
  PermutationBatch call{};
  call.plan = prepared.plan;
  const int64_t problems = call.plan.problems, count = permutations + 1;
  Tensor sums = allocate(gamma, {problems, count, 3}, ScalarType::Double);
  call.seed = uint64_t(seed);
  call.parts = call.plan.type == ScalarType::Double ? kMaxParts : 3;
  call.whole = 1;
  while (call.whole < call.plan.kernels) call.whole *= 2;
  call.words = larger(1, ceil_div(call.plan.rows_of_z, kTileColumns)) * (kTileColumns / 32);
  const int64_t most = round_up(smaller(count, kBatchPermutations), int64_t(kChunk));
  const Tensor memory = allocate_arena(z, [&](Arena& arena) {
    call.members = arena.take<uint32_t>(most * call.words);
    call.within = arena.take<Total>(call.parts * most);
    call.touching = arena.take<Total>(call.parts * most);
    call.row_sum = arena.take<Total>(call.parts * call.plan.rows_of_z);
  });
  for (call.problem = 0; call.problem < problems; ++call.problem) {
    call.sums = sums.mutable_data_ptr<double>() + call.problem * count * 3;
    for (call.first = 0; call.first < count; call.first += kBatchPermutations) {
      call.count = smaller(kBatchPermutations, count - call.first);
      call.padded = round_up(call.count, int64_t(kChunk));
      launch(members_kernel, dim3(unsigned(call.padded)), dim3(kMemberThreads), sizeof(ShuffleKey), scope.stream, call);
      if (call.plan.type != ScalarType::Double) launch_permutations<SplitGram>(call, scope.stream);
      launch_permutations<DoubleGram>(call, scope.stream);
      launch(finish_kernel, dim3(unsigned(call.count)), dim3(kFinishThreads), kWarp * sizeof(int64_t), scope.stream,
             call);
    }
  }
  return sums;
}

}  // namespace awpf
