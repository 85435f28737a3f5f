// Block sums of a mixture of Gaussian kernels on Hopper: the products of sums.cu by wgmma.
//
// FLOPs as there; bytes: the packed points once for every 128 other points, mostly from the L2 cache. A block takes two
// strips, 128 rows, against the tiles of a segment. It is warp-specialized: one producer thread copies slabs of rows
// and columns into a ring of six stages, and two consumer warpgroups, each with a strip of its own, multiply them as
// they arrive. Points are packed in panels (panels.h), so that a slab is one bulk copy. Tensor maps would have to be
// encoded by the driver, and could not gather the rows of a problem from several groups.
//
// Like mma.sync, wgmma truncates when it accumulates. Therefore a slab (32 of the depth in three products, or 64 in
// one) has accumulators of its own, small products first, and ordinary, rounded additions add them up. While one
// warpgroup does that or computes exponentials, the other one uses the tensor cores. Two sets of accumulators need more
// than the 168 registers that each of 384 threads has; the producer's warpgroup gives most of its own to the consumers.
#include "cuda/device/hopper.h"
#include "cuda/mmd/tile_sums.h"
#include "cuda/mmd/warpgroup_sums.h"

namespace awpf {
namespace {

constexpr int kConsumers = 2;  // warpgroups; one more has the producer thread
constexpr int kThreads = (kConsumers + 1) * kWarpgroup;
constexpr int kProducerRegisters = 40, kConsumerRegisters = 232;
static_assert(kWarpgroup * (kProducerRegisters + kConsumers * kConsumerRegisters) <= 65536,
              "more than a multiprocessor has");
constexpr int kStages = 6;
constexpr int kStageBytes = 2 * kPanelBytes;  // a slab of rows, a slab of columns
constexpr int kAtOnce = 4;                    // kernel values computed side by side

// The threads of a warpgroup as the ThreadGroup of a tile.
struct Warpgroup {
  static constexpr int kThreads = kWarpgroup, kRows = 2, kColumns = 16;
  __device__ __forceinline__ static int index() { return int(threadIdx.x) / kWarpgroup; }
  __device__ __forceinline__ static int rank() { return int(threadIdx.x) % kWarpgroup; }
  __device__ __forceinline__ static void sync() { named_barrier(1 + index(), kWarpgroup); }
  __device__ __forceinline__ static int row(int i) { return rank() / kWarp * 16 + i * 8 + rank() % kWarp / 4; }
  __device__ __forceinline__ static int column(int j, int e) { return j * 8 + rank() % 4 * 2 + e; }
};
static_assert(Warpgroup::kRows * Warpgroup::kColumns * 2 == kWgmmaValues, "a thread's share of a product");

struct Shared {
  unsigned char stage[kStages][kStageBytes];  // first, because it must be at a multiple of 1,024
  Mbarrier full[kStages], empty[kStages];
  TilePoints<float> tile_points[kConsumers];
};
static_assert(sizeof(Shared) <= 227 << 10, "more than a multiprocessor has");

// The next stage of the ring, and the parity of its phase.
struct RingStage {
  int stage = 0, parity = 0;

  __device__ __forceinline__ void advance() {
    if (++stage < kStages) return;
    stage = 0;
    parity ^= 1;
  }
};

// Calls f(problem, precision, range) for the ranges of this block.
template <class F>
__device__ __forceinline__ void for_each_range(const Plan& plan, const F& f) {
  const int64_t ranges = plan.start[plan.problems].pair_range;
  for (int64_t index = blockIdx.x; index < ranges; index += gridDim.x) {
    const int p = int(find_problem(plan.problems, index, [&](int64_t q) { return plan.start[q].pair_range; }));
    const Precision precision = plan.scaling[p].precision;
    if (SplitGram::computes(precision)) f(p, precision, plan.pair_schedule(p).range(index - plan.start[p].pair_range));
  }
}

// The producer thread copies every slab of every tile as soon as its stage is empty.
__device__ __forceinline__ void copy_slabs(const Plan& plan, Shared& shared) {
  const Panels panels(plan.dim);
  RingStage at;
  at.parity = 1;  // as if a phase had ended before the first: all stages are empty
  for_each_range(plan, [&](int p, Precision precision, const PairRange& range) {
    const int64_t rows = plan.first_panel(0, p) + range.pair, columns = plan.first_panel(1, p);
    const int slabs = Panels::slabs_of(precision, plan.dim);
    for (int tile = range.begin; tile < range.end; ++tile)
      for (int slab = 0; slab < slabs; ++slab, at.advance()) {
        mbarrier_wait(&shared.empty[at.stage], at.parity);
        mbarrier_arrive_expect_tx(&shared.full[at.stage], kStageBytes);
        unsigned char* const stage = shared.stage[at.stage];
        cp_async_bulk(stage, plan.panels + panels.slab(rows, slab), kPanelBytes, &shared.full[at.stage]);
        cp_async_bulk(stage + kPanelBytes, plan.panels + panels.slab(columns + tile, slab), kPanelBytes,
                      &shared.full[at.stage]);
      }
  });
}

// Inner products of a strip and a tile from the next slabs of the ring.
template <bool kSplit>
__device__ __forceinline__ void multiply(Shared& shared, RingStage& at, int slabs, Fragment<float, Warpgroup>& sum) {
  constexpr int kDepthStep = kWgmmaDepth * int(sizeof(uint16_t)), kLow = kPanelRowBytes / 2;
  const uint32_t first = shared_address(shared.stage) + uint32_t(Warpgroup::index() * kStripRows * kPanelRowBytes);
  const auto rows = [=](uint32_t stage, int offset) { return matrix_descriptor(stage + offset); };
  const uint32_t to_columns = kPanelBytes - uint32_t(Warpgroup::index() * kStripRows * kPanelRowBytes);
  const auto columns = [=](uint32_t stage, int offset) { return matrix_descriptor(stage + to_columns + offset); };
  float part[kWgmmaValues];
#pragma unroll
  for (int v = 0; v < kWgmmaValues; ++v) part[v] = sum[v / 2 % 2][v / 4][v % 2] = 0;
#pragma unroll 1
  for (int slab = 0; slab < slabs; ++slab, at.advance()) {
    const uint32_t stage = first + uint32_t(at.stage * kStageBytes);
    mbarrier_wait(&shared.full[at.stage], at.parity);
    wgmma_fence();
    if (kSplit) {
#pragma unroll
      for (int k = 0; k < kLow; k += kDepthStep)
        wgmma_m64n128k16(part, rows(stage, kLow + k), columns(stage, k), k > 0);
#pragma unroll
      for (int k = 0; k < kLow; k += kDepthStep) wgmma_m64n128k16(part, rows(stage, k), columns(stage, kLow + k), true);
#pragma unroll
      for (int k = 0; k < kLow; k += kDepthStep) wgmma_m64n128k16(part, rows(stage, k), columns(stage, k), true);
    } else {
#pragma unroll
      for (int k = 0; k < kPanelRowBytes; k += kDepthStep)
        wgmma_m64n128k16(part, rows(stage, k), columns(stage, k), k > 0);
    }
    wgmma_commit();
    wgmma_wait<0>(part);
    // Each warp arrives on its own, when its own part of the products has ended.
    if (threadIdx.x % kWarp == 0) mbarrier_arrive(&shared.empty[at.stage]);
#pragma unroll
    for (int v = 0; v < kWgmmaValues; ++v) sum[v / 2 % 2][v / 4][v % 2] += part[v];
  }
}

// A consumer warpgroup sums the tiles of its strip.
__device__ __forceinline__ void sum_strips(const Plan& plan, Shared& shared) {
  TilePoints<float>& tile_points = shared.tile_points[Warpgroup::index()];
  RingStage at;
  for_each_range(plan, [&](int p, Precision precision, const PairRange& pair_range) {
    const TileRange range{kConsumers * pair_range.pair + Warpgroup::index(), pair_range.segment, pair_range.begin,
                          pair_range.end};
    const bool has_rows = range.strip < plan.schedule(p).strips();  // the last pair may have only one strip
    const int slabs = Panels::slabs_of(precision, plan.dim);
    if (has_rows) {
      Warpgroup::sync();
      tile_points.fill_rows<Warpgroup>(plan, 0, p, range.strip);
    }
    for (int tile = range.begin; tile < range.end; ++tile) {
      if (has_rows) {
        Warpgroup::sync();
        tile_points.fill_columns<Warpgroup>(plan, 1, p, tile);
        Warpgroup::sync();
      }
      Fragment<float, Warpgroup> value;
      if (precision == Precision::fp16_split)
        multiply<true>(shared, at, slabs, value);
      else
        multiply<false>(shared, at, slabs, value);
      if (has_rows) sum_tile<Warpgroup, kAtOnce>(plan, p, range, tile, tile_points, value);
    }
  });
}

__global__ void __launch_bounds__(kThreads, 1) warpgroup_sums_kernel(Plan plan) {
  Shared& shared = *shared_memory<Shared>();
  if (!plan.tables_valid()) return;
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < kStages; ++stage) {
      mbarrier_init(&shared.full[stage], 1);
      mbarrier_init(&shared.empty[stage], kConsumers * kWarpgroup / kWarp);
    }
    mbarrier_init_fence();
  }
  __syncthreads();
  if (threadIdx.x < kConsumers * kWarpgroup) {
    setmaxnreg_inc<kConsumerRegisters>();
    sum_strips(plan, shared);
  } else {
    setmaxnreg_dec<kProducerRegisters>();
    if (threadIdx.x == kConsumers * kWarpgroup) copy_slabs(plan, shared);
  }
}

}  // namespace

bool has_warpgroup_sums() { return has_hopper(); }

void launch_warpgroup_sums(const Plan& plan, Stream stream) {
  const int64_t most = Panels::max_panels(plan.rows_of_z, plan.problems) * kSegments;
  launch(warpgroup_sums_kernel, dim3(unsigned(smaller(most, multiprocessors()))), dim3(kThreads), sizeof(Shared),
         stream, plan);
}

}  // namespace awpf
