// Block sums of small problems, one or hundreds of them, in a single launch.
//
// One cooperative launch does what seven launches do one after the other (sums.cu). A group of blocks takes one problem
// after the other, and centres, packs, multiplies and sums each before the next, while its points are in the L2 cache.
// FLOPs as in sums.cu; bytes: the points once from memory. Every block computes the layout and the scaling for itself,
// which takes less time than waiting for another block. The blocks of a group wait for each other twice for each
// problem, for the centre and for the packed points, and the last block to finish adds the partial sums up. There are
// as many block groups as problems, except where a problem has work for many blocks: then at least eight.
//
// Which problems are small is decided by their average size, since the host does not know more: in a ragged batch of
// many small problems and one very large one, a single block group computes the large one.
#include "cuda/device/device.h"
#include "cuda/mmd/block_group.h"
#include "cuda/mmd/choose_precision.h"
#include "cuda/mmd/fill_layout.h"
#include "cuda/mmd/small.h"

namespace awpf {
namespace {

constexpr int64_t kMaxRows = 1024;      // pooled rows of a problem, on average
constexpr int64_t kMaxGroupPairs = 16;  // sums of a problem: one block finds them all
constexpr int64_t kMaxTableBytes = 24 << 10;
constexpr int64_t kMinBlockGroups = 8;  // given as many problems: 8 x 4 MB of points and packed rows stay in L2

constexpr size_t kGramBytes =
    SplitGram::kSharedBytes > DoubleGram::kSharedBytes ? SplitGram::kSharedBytes : DoubleGram::kSharedBytes;
static_assert(sizeof(PrecisionSample) <= kGramBytes, "the choice of precision uses the memory of the products");

// Shared memory of a block behind the kGramBytes of the products; the tables of the layout follow it.
struct SharedState {
  union {
    TilePoints<float> fp32;
    TilePoints<double> fp64;
  } tile_points;
  SmallPlan plan;  // the given one with its tables in shared memory; threads would keep copies of it in local memory
  double numbers[kWarp];
  int64_t counts[kWarp];
  int32_t shares_rows, last_block;
  Flags flags;
};

size_t table_bytes(const ProblemLayout& layout) {
  int64_t offsets = 0;
  for (int side = 0; side < layout.sides(); ++side) offsets += layout.problems * layout.groups[side] + 1;
  return size_t((layout.problems + 1) * int64_t(sizeof(ProblemStart)) + offsets * int64_t(sizeof(int64_t)));
}

size_t shared_bytes(const ProblemLayout& layout) { return kGramBytes + sizeof(SharedState) + table_bytes(layout); }

// Copies the plan to shared memory, with its tables there. One thread.
__device__ __forceinline__ void copy_plan(const SmallPlan& given, SharedState& state) {
  SmallPlan& plan = state.plan;
  plan = given;
  plan.start = reinterpret_cast<ProblemStart*>(&state + 1);
  plan.group_offsets[0] = reinterpret_cast<int64_t*>(plan.start + plan.problems + 1);
  plan.group_offsets[1] =
      plan.symmetric ? plan.group_offsets[0] : plan.group_offsets[0] + plan.problems * plan.groups[0] + 1;
  plan.flags = &state.flags;
}

__device__ __forceinline__ void find_centre_of(const SmallPlan& plan, int64_t p, const BlockGroup& blocks,
                                               double* shared) {
  switch (plan.type) {
    case ScalarType::Half: return find_centre<F16>(plan, p, blocks, shared);
    case ScalarType::BFloat16: return find_centre<BF16>(plan, p, blocks, shared);
    case ScalarType::Float: return find_centre<float>(plan, p, blocks, shared);
    default: return find_centre<double>(plan, p, blocks, shared);
  }
}

__device__ __forceinline__ void pack_rows_of(const SmallPlan& plan, int64_t p, const BlockGroup& blocks,
                                             const Scaling& scaling) {
  switch (plan.type) {
    case ScalarType::Half: return pack_rows<F16>(plan, p, blocks, scaling);
    case ScalarType::BFloat16: return pack_rows<BF16>(plan, p, blocks, scaling);
    case ScalarType::Float: return pack_rows<float>(plan, p, blocks, scaling);
    default: return pack_rows<double>(plan, p, blocks, scaling);
  }
}

// Fills the layout in shared memory and returns the group of this block. All threads.
__device__ __forceinline__ BlockGroup begin(const SmallPlan& given, int block_groups, SharedState& state) {
  if (threadIdx.x == 0) copy_plan(given, state);
  __syncthreads();
  BlockGroup blocks;
  blocks.size = int(gridDim.x) / block_groups;
  blocks.index = int(blockIdx.x) / blocks.size;
  blocks.rank = int(blockIdx.x) % blocks.size;
  blocks.arrivals = given.arrivals + blocks.index;
  blocks.target = 0;
  fill_layout(state.plan, state.counts);
  __syncthreads();
  return blocks;
}

// Finds the scaling of a problem and packs its rows; with `directly`, which needs neither, only its kernels are put in
// order. All threads of the block group; another barrier of the group has to follow.
__device__ __forceinline__ Scaling prepare_problem(const SmallPlan& plan, int64_t p, BlockGroup& blocks, void* shared,
                                                   bool directly) {
  // The last block of a group is the first to run out of chunks of features.
  if (blocks.rank == blocks.size - 1 && threadIdx.x == 0)
    order_kernels(plan.gamma + p * plan.kernels, plan.kernels, plan.steps + p * plan.kernels, plan.initial_scaling[p]);
  if (!directly) find_centre_of(plan, p, blocks, static_cast<double*>(shared));
  if (p == blocks.index) {
    if (blocks.rank == 0 && threadIdx.x == 0) *blocks.arrivals = 0;
    grid_barrier();
  } else {
    blocks.barrier();
  }
  Scaling scaling = plan.initial_scaling[p];
  if (!directly) {
    scaling = find_scaling(plan, p, shared);
    __syncthreads();
    if (scaling.precision != Precision::invalid) pack_rows_of(plan, p, blocks, scaling);
  }
  if (blocks.rank == 0 && threadIdx.x == 0) plan.scaling[p] = scaling;
  return scaling;
}

// Whether the tables do not hold for a problem, so that its sums are found by differences.
__device__ __forceinline__ bool needs_direct_sums(const SmallPlan& plan, int64_t p, SharedState& state) {
  return plan.flags->overfull != 0 || (plan.problems > 1 && shares_rows(plan, p, &state.shares_rows));
}

// Counts the blocks of a group that have done their part of a problem.
__device__ __forceinline__ uint32_t* finished(const SmallPlan& plan, int64_t p) {
  return plan.arrivals + plan.problems + p;
}

__global__ void __launch_bounds__(kSmallThreads, 1)
    sums_kernel(SmallPlan given, int block_groups, double* sums, WeightedSums weighted) {
  char* const shared = shared_memory<char>();
  SharedState& state = *reinterpret_cast<SharedState*>(shared + kGramBytes);
  const SmallPlan& plan = state.plan;
  BlockGroup blocks = begin(given, block_groups, state);
  for (int64_t p = blocks.index; p < plan.problems; p += block_groups) {
    const bool directly = needs_direct_sums(plan, p, state);
    if (blocks.rank == 0 && threadIdx.x == 0) *finished(plan, p) = 0;
    const Precision precision = prepare_problem(plan, p, blocks, shared, directly).precision;
    blocks.barrier();
    if (!directly && SplitGram::computes(precision))
      sum_ranges<SplitGram>(plan, p, blocks, state.tile_points.fp32, shared);
    else if (!directly && DoubleGram::computes(precision))
      sum_ranges<DoubleGram>(plan, p, blocks, state.tile_points.fp64, shared);

    __syncthreads();
    if (threadIdx.x == 0) state.last_block = arrive(finished(plan, p)) + 1 == uint32_t(blocks.size);
    __syncthreads();
    if (state.last_block == 0) continue;
    const int group_pairs = plan.groups[0] * plan.groups[1];
    for (int group_pair = 0; group_pair < group_pairs; ++group_pair) {
      const int g = group_pair / plan.groups[1], h = group_pair % plan.groups[1];
      if (plan.symmetric && h > g) continue;
      const double sum = group_pair_sum(plan, p, g, h, directly, state.numbers);
      if (threadIdx.x > 0) continue;
      sums[p * group_pairs + group_pair] = sum;
      if (plan.symmetric) sums[p * group_pairs + h * plan.groups[1] + g] = sum;
    }
    if (weighted.out != nullptr && threadIdx.x < kWarp) write_weighted_sum(weighted, p, sums, group_pairs);
  }
}

// Does what fill_tables does in four launches.
__global__ void __launch_bounds__(kSmallThreads, 1) tables_kernel(SmallPlan given, int block_groups) {
  char* const shared = shared_memory<char>();
  SharedState& state = *reinterpret_cast<SharedState*>(shared + kGramBytes);
  const SmallPlan& plan = state.plan;
  BlockGroup blocks = begin(given, block_groups, state);
  if (blockIdx.x == 0) {
    for (int64_t p = threadIdx.x; p <= plan.problems; p += kSmallThreads) given.start[p] = plan.start[p];
    for (int side = 0; side < plan.sides(); ++side)
      for (int64_t k = threadIdx.x; k <= plan.problems * plan.groups[side]; k += kSmallThreads)
        given.group_offsets[side][k] = plan.group_offsets[side][k];
    if (threadIdx.x == 0) *given.flags = *plan.flags;
  }
  for (int64_t p = blocks.index; p < plan.problems; p += block_groups) {
    const bool directly = needs_direct_sums(plan, p, state);
    prepare_problem(plan, p, blocks, shared, directly);  // its grid barrier comes after the flags were written
    if (directly && blocks.rank == 0 && threadIdx.x == 0) given.flags->shared_rows = 1;
    __syncthreads();
  }
}

}  // namespace

BlockGroups block_groups_for(const ProblemLayout& layout) {
  const int64_t problems = layout.problems, group_pairs = int64_t(layout.groups[0]) * layout.groups[1];
  if (problems == 0 || layout.rows_of_z > kMaxRows * problems) return {0, 0};
  if (group_pairs == 0 || group_pairs > kMaxGroupPairs || table_bytes(layout) > size_t(kMaxTableBytes)) return {0, 0};
  const size_t shared = shared_bytes(layout);
  const int64_t blocks = smaller(resident_blocks(reinterpret_cast<const void*>(sums_kernel), kSmallThreads, shared),
                                 resident_blocks(reinterpret_cast<const void*>(tables_kernel), kSmallThreads, shared));
  if (blocks == 0) return {0, 0};
  const int64_t average_rows = ceil_div(layout.rows_of_z, problems);
  const Schedule average{average_rows, average_rows, layout.symmetric};
  int64_t tiles = 0;
  for (int64_t strip = 0; strip < average.strips(); ++strip) tiles += average.tiles_of(strip);
  tiles = larger(tiles, 1);
  // As few rounds of problems as possible, all of them full.
  const int64_t max_groups = smaller(blocks, larger(kMinBlockGroups, blocks / tiles));
  const int64_t rounds = ceil_div(problems, max_groups), block_groups = ceil_div(problems, rounds);
  return {int(block_groups), int(smaller(blocks / block_groups, tiles))};
}

void sum_small(const Prepared& prepared, const BlockGroups& block_groups, double* sums, const WeightedSums& weighted,
               Stream stream) {
  const SmallPlan plan{prepared.plan, prepared.small};
  launch_cooperative(sums_kernel, dim3(unsigned(block_groups.count * block_groups.size)), dim3(kSmallThreads),
                     shared_bytes(plan), stream, plan, block_groups.count, sums, weighted);
}

void fill_small_tables(const Prepared& prepared, const BlockGroups& block_groups, Stream stream) {
  const SmallPlan plan{prepared.plan, prepared.small};
  launch_cooperative(tables_kernel, dim3(unsigned(block_groups.count * block_groups.size)), dim3(kSmallThreads),
                     shared_bytes(plan), stream, plan, block_groups.count);
}

}  // namespace awpf
