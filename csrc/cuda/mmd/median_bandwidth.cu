// The lower median of the squared distances of some pairs of pooled rows (common/median_pairs.h).
//
// Distances are computed by differences in double precision, whatever the input: 3 d FLOPs for each of about a thousand
// pairs, by a warp. The median is found by a radix select: six passes count the values of eleven bits, the most
// significant first, and each narrows down the distances still in question. Counts are integers, so the order of
// additions does not matter. Launches: one, and two more for each batch of kBatchPairs pairs or kBatchProblems
// problems.
#include <torch/csrc/stable/ops.h>

#include "common/median_pairs.h"
#include "cuda/device/block.h"
#include "cuda/device/device.h"
#include "cuda/mmd/problem_layout.h"

namespace awpf {
namespace {

constexpr int64_t kBatchPairs = int64_t(8) << 20;
constexpr int64_t kBatchProblems = 1024;
constexpr int kThreads = 256, kWarps = kThreads / kWarp, kPairsOfWarp = 4;
constexpr int kDigitBits = 11, kBins = 1 << kDigitBits, kPasses = 6;

struct MedianCall {
  ProblemLayout layout;
  int64_t first;     // problem of this batch
  int64_t max_rows;  // of a problem
  int64_t stride;    // room for the distances of a problem
  uint64_t seed;
  uint64_t* distance;  // bits of doubles, whose order is that of the values
  double* median;

  __device__ MedianPairs pairs(int64_t k) const { return MedianPairs::of(layout.size(0, first + k), max_rows, seed); }
};

struct ShuffleKeys {
  ShuffleKey around, sample;
};

// The distances of one problem, blockIdx.y.
__global__ void __launch_bounds__(kThreads) distance_kernel(MedianCall call) {
  ShuffleKeys* const keys = shared_memory<ShuffleKeys>();
  const ProblemLayout& layout = call.layout;
  const MedianPairs pairs = call.pairs(blockIdx.y);
  if (pairs.count() <= 0) return;
  if (threadIdx.x == 0) {
    if (pairs.is_shuffled()) keys->around = shuffle_key(call.seed, 0, uint64_t(pairs.rows));
    if (pairs.is_sampled()) keys->sample = shuffle_key(call.seed, 0, uint64_t(pairs.pool));
  }
  __syncthreads();
  const int lane = threadIdx.x % kWarp;
  for (int64_t item = blockIdx.x * int64_t(kWarps) + threadIdx.x / kWarp; item < pairs.rows * pairs.partners;
       item += gridDim.x * int64_t(kWarps)) {
    const int64_t place = item / pairs.partners, partner = item % pairs.partners;
    if (partner >= pairs.partners_of(place)) continue;
    // Even lanes find the row at the place, odd ones its partner.
    const int64_t own_place = lane % 2 == 0 ? place : (place + 1 + partner) % pairs.rows;
    const int64_t position = median_position(pairs, own_place, keys->around, keys->sample);
    const int64_t own_row = layout.row_ref(0, call.first + blockIdx.y, position).row;
    const int64_t left = __shfl_sync(kWholeWarp, own_row, 0) * layout.dim;
    const int64_t right = __shfl_sync(kWholeWarp, own_row, 1) * layout.dim;
    double sum = 0;
    for (int depth = lane; depth < layout.dim; depth += kWarp) {
      const double difference =
          load_double(layout.z, layout.type, left + depth) - load_double(layout.z, layout.type, right + depth);
      sum = fma(difference, difference, sum);
    }
    sum = warp_sum(sum);
    const double square = sum == sum ? sum : HUGE_VAL;  // NaN counts as the largest distance
    if (lane == 0)
      call.distance[blockIdx.y * call.stride + pairs.first_pair(place) + partner] =
          uint64_t(__double_as_longlong(square));
  }
}

struct Selection {
  uint64_t prefix;  // leading bits of the median
  int64_t rank;     // its rank among the distances that have them
};

// The median of one problem, blockIdx.x.
__global__ void __launch_bounds__(kThreads) median_kernel(MedianCall call) {
  Selection* const found = shared_memory<Selection>();
  int64_t* const scratch = reinterpret_cast<int64_t*>(found + 1);
  uint32_t* const bins = reinterpret_cast<uint32_t*>(scratch + kWarp);
  const int64_t count = call.pairs(blockIdx.x).count();
  double* const out = call.median + call.first + blockIdx.x;
  if (count <= 0) {
    if (threadIdx.x == 0) *out = nan("");
    return;
  }
  const uint64_t* distance = call.distance + blockIdx.x * call.stride;
  Selection known{0, (count - 1) / 2};
  for (int pass = 0; pass < kPasses; ++pass) {
    const int shift = (kPasses - 1 - pass) * kDigitBits;
    for (int bin = threadIdx.x; bin < kBins; bin += kThreads) bins[bin] = 0;
    __syncthreads();
    for (int64_t i = threadIdx.x; i < count; i += kThreads) {
      const uint64_t digits = distance[i] >> shift;
      if (digits >> kDigitBits == known.prefix) atomicAdd(bins + (digits & (kBins - 1)), 1u);
    }
    __syncthreads();
    block_scan(
        kBins, scratch, [&](int64_t bin) { return int64_t(bins[bin]); },
        [&](int64_t bin, int64_t smaller_ones) {
          if (known.rank >= smaller_ones && known.rank < smaller_ones + int64_t(bins[bin]))
            *found = {known.prefix << kDigitBits | uint64_t(bin), known.rank - smaller_ones};
        });
    __syncthreads();
    known = *found;
    __syncthreads();
  }
  if (threadIdx.x == 0) *out = __longlong_as_double(int64_t(known.prefix));
}

}  // namespace

Tensor median_square_distance(Tensor z, Tensor rows, int64_t max_rows, int64_t seed) {
  const DeviceScope scope(z);
  MedianCall call{};
  call.layout = check_problems(z, rows, std::nullopt);
  AWPF_CHECK(max_rows >= 2, "max_rows must be at least 2");
  AWPF_CHECK(z.size(0) < int64_t(1) << 31, "at most 2^31 - 1 pooled rows");
  const int64_t problems = call.layout.problems;
  Tensor result = torch::stable::new_empty(z, {problems}, ScalarType::Double);
  if (problems == 0) return result;
  call.max_rows = smaller(max_rows, larger(2, call.layout.groups[0] * call.layout.rows_of_z));
  AWPF_CHECK(call.max_rows < int64_t(1) << 30, "max_rows must be less than 2^30");
  call.stride = MedianPairs::most_pairs(call.max_rows);
  call.seed = uint64_t(seed);
  call.median = result.mutable_data_ptr<double>();
  const int64_t batch = smaller(problems, larger(1, smaller(kBatchProblems, kBatchPairs / call.stride)));
  const Tensor memory = allocate_arena(z, [&](Arena& arena) {
    allocate_layout(call.layout, arena);
    call.distance = arena.take<uint64_t>(batch * call.stride);
  });

  const Stream stream = scope.stream;
  launch_layout(call.layout, stream);
  const size_t select_bytes = sizeof(Selection) + kWarp * sizeof(int64_t) + kBins * sizeof(uint32_t);
  const unsigned slices = unsigned(smaller(ceil_div(call.stride, kPairsOfWarp * kWarps), 4 * multiprocessors()));
  for (call.first = 0; call.first < problems; call.first += batch) {
    const unsigned now = unsigned(smaller(batch, problems - call.first));
    launch(distance_kernel, dim3(slices, now), dim3(kThreads), sizeof(ShuffleKeys), stream, call);
    launch(median_kernel, dim3(now), dim3(kThreads), select_bytes, stream, call);
  }
  return result;
}

}  // namespace awpf
