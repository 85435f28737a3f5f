// The lower median of the squared distances between all pairs of pooled rows, or of a seeded sample of the rows.
//
// Distances are computed by differences in double precision, whatever the input: 3 m^2 d / 2 FLOPs for m rows. They are
// stored, at most kBatchPairs at a time, and the median is found by a radix select: six passes count the values of
// eleven bits, the most significant first, and each narrows down the distances still in question. Counts are integers,
// so the order of additions does not matter. Launches: one, and eight more for each batch of kBatchPairs pairs or
// kBatchProblems problems.
#include <torch/csrc/stable/ops.h>

#include "common/shuffle.h"
#include "cuda/device/block.h"
#include "cuda/device/device.h"
#include "cuda/mmd/problem_layout.h"

namespace awpf {
namespace {

constexpr int64_t kBatchPairs = int64_t(8) << 20;
constexpr int64_t kBatchProblems = 1024;
constexpr int kTile = 64, kSlab = 16, kStride = kTile + 2, kThreads = 256;
constexpr int kDigitBits = 11, kBins = 1 << kDigitBits, kPasses = 6;

struct Selection {
  uint64_t prefix;  // leading bits of the median
  int64_t rank;     // its rank among the distances that have them
};

struct MedianCall {
  ProblemLayout layout;
  int64_t first, problems;  // of this batch
  int64_t max_rows;         // of a problem
  int64_t stride;           // room for the distances of a problem
  uint64_t seed;
  uint64_t* distance;    // bits of doubles, whose order is that of the values
  uint32_t* count;       // [pass][problem][bin]
  Selection* selection;  // [pass][problem]
  double* median;

  __device__ int64_t rows(int64_t k) const { return smaller(layout.size(0, first + k), max_rows); }
  __device__ int64_t pairs(int64_t k) const { return rows(k) * (rows(k) - 1) / 2; }
};

__global__ void __launch_bounds__(kThreads, 2) distance_kernel(MedianCall call) {
  double* const left = shared_memory<double>();
  double* const right = left + kSlab * kStride;
  int64_t* const row = reinterpret_cast<int64_t*>(right + kSlab * kStride);
  ShuffleKey* const key = reinterpret_cast<ShuffleKey*>(row + 2 * kTile);
  const ProblemLayout& layout = call.layout;
  for (int64_t k = blockIdx.x * int64_t(kThreads) + threadIdx.x; k < kPasses * call.problems * kBins;
       k += int64_t(gridDim.x) * kThreads)
    call.count[k] = 0;
  const int64_t edge = ceil_div(call.max_rows, kTile), tiles = edge * edge;
  for (int64_t item = blockIdx.x; item < call.problems * tiles; item += gridDim.x) {
    const int64_t k = item / tiles, p = call.first + k, rows = call.rows(k), pool = layout.size(0, p);
    const int64_t top = item % tiles / edge * kTile, side = item % tiles % edge * kTile;
    if (side > top || top >= rows) continue;
    const bool chosen = pool > call.max_rows;
    __syncthreads();
    if (threadIdx.x == 0 && chosen) *key = shuffle_key(call.seed, 0, uint64_t(pool));
    __syncthreads();
    if (threadIdx.x < 2 * kTile) {
      const int64_t position = threadIdx.x < kTile ? top + threadIdx.x : side + threadIdx.x - kTile;
      const int64_t at = chosen ? int64_t(shuffled(uint32_t(position), uint32_t(pool), *key)) : position;
      row[threadIdx.x] = position < rows ? layout.row_ref(0, p, at).row : -1;
    }
    double sum[4][4] = {};
    for (int begin = 0; begin < layout.dim; begin += kSlab) {
      __syncthreads();
#pragma unroll
      for (int q = 0; q < 2 * kTile * kSlab / kThreads; ++q) {
        const int line = threadIdx.x / kSlab + q * (kThreads / kSlab), depth = threadIdx.x % kSlab;
        const bool valid = row[line] >= 0 && begin + depth < layout.dim;
        double* const to = line < kTile ? left + line : right + line - kTile;
        to[depth * kStride] = valid ? load_double(layout.z, layout.type, row[line] * layout.dim + begin + depth) : 0;
      }
      __syncthreads();
#pragma unroll
      for (int depth = 0; depth < kSlab; ++depth) {
        double a[4], b[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          a[i] = left[depth * kStride + threadIdx.x / 16 + 16 * i];
          b[i] = right[depth * kStride + threadIdx.x % 16 + 16 * i];
        }
#pragma unroll
        for (int i = 0; i < 4; ++i)
#pragma unroll
          for (int j = 0; j < 4; ++j) sum[i][j] = fma(a[i] - b[j], a[i] - b[j], sum[i][j]);
      }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int64_t r = top + threadIdx.x / 16 + 16 * i, c = side + threadIdx.x % 16 + 16 * j;
        const double square = sum[i][j] == sum[i][j] ? sum[i][j] : HUGE_VAL;  // NaN counts as the largest distance
        if (c < r && r < rows)
          call.distance[k * call.stride + r * (r - 1) / 2 + c] = uint64_t(__double_as_longlong(square));
      }
  }
}

__device__ int shift_of(int pass) { return (kPasses - 1 - pass) * kDigitBits; }

// What is known before a pass, from the counts of the previous one. For all threads.
__device__ Selection narrow_down(const MedianCall& call, int64_t k, int pass, int64_t* scratch, Selection* found) {
  if (pass == 0) return {0, (call.pairs(k) - 1) / 2};
  const Selection before = call.selection[(pass - 1) * call.problems + k];
  const uint32_t* count = call.count + ((pass - 1) * call.problems + k) * kBins;
  __syncthreads();
  block_scan(
      kBins, scratch, [&](int64_t bin) { return int64_t(count[bin]); },
      [&](int64_t bin, int64_t smaller_ones) {
        if (before.rank >= smaller_ones && before.rank < smaller_ones + int64_t(count[bin]))
          *found = {before.prefix << kDigitBits | uint64_t(bin), before.rank - smaller_ones};
      });
  __syncthreads();
  return *found;
}

__global__ void __launch_bounds__(kThreads) count_kernel(MedianCall call, int pass) {
  uint32_t* const bins = shared_memory<uint32_t>();
  int64_t* const scratch = reinterpret_cast<int64_t*>(bins + kBins);
  Selection* const found = reinterpret_cast<Selection*>(scratch + kWarp);
  const int64_t k = blockIdx.y, pairs = call.pairs(k);
  if (pairs <= 0) return;
  const Selection known = narrow_down(call, k, pass, scratch, found);
  if (blockIdx.x == 0 && threadIdx.x == 0) call.selection[pass * call.problems + k] = known;
  for (int bin = threadIdx.x; bin < kBins; bin += kThreads) bins[bin] = 0;
  __syncthreads();
  const uint64_t* distance = call.distance + k * call.stride;
  const int shift = shift_of(pass);
  for (int64_t i = blockIdx.x * int64_t(kThreads) + threadIdx.x; i < pairs; i += int64_t(gridDim.x) * kThreads) {
    const uint64_t digits = distance[i] >> shift;
    if (digits >> kDigitBits == known.prefix) atomicAdd(bins + (digits & (kBins - 1)), 1u);
  }
  __syncthreads();
  for (int bin = threadIdx.x; bin < kBins; bin += kThreads)
    if (bins[bin] > 0) atomicAdd(call.count + (pass * call.problems + k) * kBins + bin, bins[bin]);
}

__global__ void __launch_bounds__(kThreads) median_kernel(MedianCall call) {
  int64_t* const scratch = shared_memory<int64_t>();
  Selection* const found = reinterpret_cast<Selection*>(scratch + kWarp);
  const int64_t k = blockIdx.x;
  double median = nan("");
  if (call.pairs(k) > 0) median = __longlong_as_double(int64_t(narrow_down(call, k, kPasses, scratch, found).prefix));
  if (threadIdx.x == 0) call.median[call.first + k] = median;
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
  call.stride = call.max_rows * (call.max_rows - 1) / 2;
  call.seed = uint64_t(seed);
  call.median = result.mutable_data_ptr<double>();
  const int64_t batch = smaller(problems, larger(1, smaller(kBatchProblems, kBatchPairs / call.stride)));
  const Tensor memory = allocate_arena(z, [&](Arena& arena) {
    allocate_layout(call.layout, arena);
    call.distance = arena.take<uint64_t>(batch * call.stride);
    call.count = arena.take<uint32_t>(kPasses * batch * kBins);
    call.selection = arena.take<Selection>(kPasses * batch);
  });

  const Stream stream = scope.stream;
  launch_layout(call.layout, stream);
  const size_t tile_bytes = 2 * kSlab * kStride * sizeof(double) + 2 * kTile * sizeof(int64_t) + sizeof(ShuffleKey);
  const size_t scan_bytes = kWarp * sizeof(int64_t) + sizeof(Selection);
  const int64_t tiles = ceil_div(call.max_rows, kTile) * ceil_div(call.max_rows, kTile);
  const unsigned slices = unsigned(smaller(ceil_div(call.stride, 16 * kThreads), 2 * multiprocessors()));
  for (call.first = 0; call.first < problems; call.first += batch) {
    call.problems = smaller(batch, problems - call.first);
    launch(distance_kernel, dim3(unsigned(smaller(call.problems * tiles, 4 * multiprocessors()))), dim3(kThreads),
           tile_bytes, stream, call);
    for (int pass = 0; pass < kPasses; ++pass)
      launch(count_kernel, dim3(slices, unsigned(call.problems)), dim3(kThreads), kBins * sizeof(uint32_t) + scan_bytes,
             stream, call, pass);
    launch(median_kernel, dim3(unsigned(call.problems)), dim3(kThreads), scan_bytes, stream, call);
  }
  return result;
}

}  // namespace awpf
