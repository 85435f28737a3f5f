// Class means and scatter matrices of labelled points.
//
// S_W = sum_i (x_i - mu_{y_i})(x_i - mu_{y_i})', S_B = sum_c n_c (mu_c - mu)(mu_c - mu)'. FLOPs: n d^2 (the lower
// triangle of tiles), three times that on tensor cores; bytes: the points twice, and from cache for every tile. The
// points are not copied: rows are read in the order of their classes (sort.cu), and on the way to shared memory the
// class mean is subtracted and the difference split into fp16 halves (split_tile.h). Each feature is scaled by a power
// of two that follows from its range. If its spread within classes is below 2^-17 of that, halves would lose bits, and
// all of S_W is computed in double precision instead. Tiles of 2,048 rows are added up in double precision, as is
// everything small; every sum has a fixed order.
#include <algorithm>

#include "common/ops.h"
#include "common/scatter.h"
#include "cuda/device/arena.h"
#include "cuda/device/device.h"
#include "cuda/scatter/means.h"
#include "cuda/scatter/products.h"
#include "cuda/scatter/split_k.h"

namespace awpf {
namespace {

constexpr double kMinMeanSquare = 1.0 / 32;  // mean square of scaled values below which halves lose bits
constexpr int64_t kBatchBytes = int64_t(256) << 20;
constexpr int64_t kMaxProblems = 1024;

// ---- sums of the splits ----

template <int kTile>
__device__ __forceinline__ double sum_split_k(const double* tiles, const SplitK& split_k, int row, int column) {
  const int tile = row / kTile * (row / kTile + 1) / 2 + column / kTile;
  const double* at = tiles + int64_t(tile) * (kTile * kTile) + row % kTile * kTile + column % kTile;
  double sum = 0;
#pragma unroll 4
  for (int split = 0; split < split_k.splits; ++split) sum += at[int64_t(split) * split_k.tiles * (kTile * kTile)];
  return sum;
}

// Sets needs_fp64 if the halves of some feature were too coarse for its spread, or if the points are not finite.
__global__ void __launch_bounds__(kColumnThreads) check_precision(ScatterBatch batch) {
  const Problem p = batch.problem(blockIdx.y);
  const int column = int(blockIdx.x) * kColumnThreads + int(threadIdx.x);
  if (column >= batch.sizes.dim || p.feature_ranges[column] == 0) return;
  const double square = sum_split_k<kSplitTile>(p.split_tiles, batch.sizes.split, column, column);
  if (!(square >= kMinMeanSquare * p.valid_rows(batch.sizes))) atomicMax(p.needs_fp64, 1);
}

enum class Sum { within, within_fp64, between };

template <Sum kSum>
__global__ void __launch_bounds__(kColumnThreads) reduce_tiles(ScatterBatch batch) {
  const Problem p = batch.problem(blockIdx.z);
  const int row = blockIdx.y, column = int(blockIdx.x) * kColumnThreads + int(threadIdx.x), dim = batch.sizes.dim;
  if (column > row) return;
  double sum;
  if (kSum == Sum::between)
    sum = sum_split_k<kDoubleTile>(p.between_tiles, batch.sizes.between, row, column);
  else if (kSum == Sum::within_fp64 || *p.needs_fp64 != 0)
    sum = sum_split_k<kDoubleTile>(p.fp64_tiles, batch.sizes.fp64, row, column);
  else
    sum = ldexp(sum_split_k<kSplitTile>(p.split_tiles, batch.sizes.split, row, column),
                -split_exponent(p.feature_ranges[row]) - split_exponent(p.feature_ranges[column]));
  double* to = kSum == Sum::between ? p.between : p.within;
  to[int64_t(row) * dim + column] = to[int64_t(column) * dim + row] = sum;
}

// ---- launches ----

unsigned blocks_of(int64_t count, int64_t each) { return unsigned(ceil_div(count, each)); }

template <Sum kSum>
void launch_reduce(const ScatterBatch& batch, int problems, Stream stream) {
  const unsigned dim = unsigned(batch.sizes.dim);
  launch(reduce_tiles<kSum>, dim3(blocks_of(dim, kColumnThreads), dim, unsigned(problems)), dim3(kColumnThreads), 0,
         stream, batch);
}

template <class Rows>
void launch_fp64(const ScatterBatch& batch, const SplitK& split_k, int problems, bool only_if_needed, Stream stream) {
  launch(multiply_fp64<Rows>, dim3(unsigned(split_k.tiles), unsigned(split_k.splits), unsigned(problems)),
         dim3(kDoubleThreads), 2 * DoubleSlab::kSize * sizeof(double), stream, batch, only_if_needed);
}

void launch_within(const ScatterBatch& batch, int problems, Stream stream, double) {
  launch_fp64<WithinRows<double>>(batch, batch.sizes.fp64, problems, false, stream);
  launch_reduce<Sum::within_fp64>(batch, problems, stream);
}

template <class T>
void launch_within(const ScatterBatch& batch, int problems, Stream stream, T) {
  const bool aligned = batch.sizes.dim % 4 == 0 && reinterpret_cast<uintptr_t>(batch.first.x) % (4 * sizeof(T)) == 0;
  launch(multiply_split<T>,
         dim3(unsigned(batch.sizes.split.tiles), unsigned(batch.sizes.split.splits), unsigned(problems)),
         dim3(kSplitThreads), kSharedBytes, stream, batch, aligned);
  launch(check_precision, dim3(blocks_of(batch.sizes.dim, kColumnThreads), unsigned(problems)), dim3(kColumnThreads), 0,
         stream, batch);
  launch_fp64<WithinRows<T>>(batch, batch.sizes.fp64, problems, true, stream);
  launch_reduce<Sum::within>(batch, problems, stream);
}

template <class T>
void run(const ScatterBatch& batch, int problems, Stream stream, T element) {
  sort_by_class(batch, problems, stream);
  const unsigned across = blocks_of(batch.sizes.dim, kColumnThreads);
  launch(add_pieces<T>, dim3(unsigned(batch.sizes.max_pieces), across, unsigned(problems)), dim3(kColumnThreads), 0,
         stream, batch);
  launch(find_means, dim3(unsigned(batch.sizes.classes), across, unsigned(problems)), dim3(kColumnThreads), 0, stream,
         batch);
  launch(find_ranges, dim3(blocks_of(batch.sizes.dim, kWarp), unsigned(problems)), dim3(kWarp * kWarp),
         kWarp * kWarp * (sizeof(double) + sizeof(MinMax)), stream, batch);
  launch_within(batch, problems, stream, element);
  launch_fp64<BetweenRows>(batch, batch.sizes.between, problems, false, stream);
  launch_reduce<Sum::between>(batch, problems, stream);
}

SplitK split_k_of(int64_t dim, int64_t rows, int tile, int slab, int64_t problems) {
  const int64_t across = ceil_div<int64_t>(dim, tile), tiles = across * (across + 1) / 2;
  const int64_t slabs = ceil_div<int64_t>(rows, slab);
  const int64_t splits = choose_split_k(tiles * problems, slabs, multiprocessors(), 8);
  return {int(tiles), int(splits), int(ceil_div(slabs, splits) * slab)};
}

Sizes sizes_of(const ScatterShape& shape) {
  const int64_t rows = shape.rows, dim = shape.dim, classes = shape.classes;
  // At most 256 blocks of rows, each of at least as many rows as there are classes.
  const int64_t block_rows = round_up<int64_t>(std::max({int64_t(512), ceil_div<int64_t>(rows, 256), classes}), kWarp);
  const int64_t problems = std::min(shape.batch, kMaxProblems);
  return {int(rows),
          int(dim),
          int(classes),
          int(ceil_div(rows, block_rows)),
          int(block_rows),
          int(ceil_div<int64_t>(rows, kPiece) + classes),
          split_k_of(dim, rows, kSplitTile, kSplitSlab, problems),
          split_k_of(dim, rows, kDoubleTile, kDoubleSlab, problems),
          split_k_of(dim, classes, kDoubleTile, kDoubleSlab, problems)};
}

// Takes memory for all arrays of a batch.
void allocate_batch(Problem& p, const Sizes& s, int64_t problems, Arena& arena) {
  const int64_t per_class = int64_t(s.classes) * s.dim, per_piece = int64_t(s.max_pieces) * s.dim;
  const int64_t split_area = kSplitTile * kSplitTile, fp64_area = kDoubleTile * kDoubleTile;
  p.offsets = arena.take<int>(problems * s.blocks * s.classes);
  p.needs_fp64 = arena.take<int>(problems);  // offsets and needs_fp64 begin at zero
  p.sorted_rows = arena.take<SortedRow>(problems * s.rows);
  p.class_starts = arena.take<int>(problems * (s.classes + 1));
  p.class_pieces = arena.take<int>(problems * (s.classes + 1));
  p.piece_sums = arena.take<double>(problems * per_piece);
  p.piece_extremes = arena.take<MinMax>(problems * per_piece);
  p.split_means = arena.take<SplitMean>(problems * per_class);
  p.extremes = arena.take<MinMax>(problems * per_class);
  p.grand_mean = arena.take<double>(problems * s.dim);
  p.feature_ranges = arena.take<float>(problems * s.dim);
  p.split_tiles = arena.take<double>(problems * s.split.blocks() * split_area);
  p.fp64_tiles = arena.take<double>(problems * s.fp64.blocks() * fp64_area);
  p.between_tiles = arena.take<double>(problems * s.between.blocks() * fp64_area);
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor> scatter(Tensor x, Tensor labels, int64_t num_classes) {
  const ScatterShape shape = check_scatter(x, labels, num_classes);
  constexpr int64_t kMost = int64_t(1) << 30;
  AWPF_CHECK(shape.rows < kMost, "x must have less than 2^30 rows, got ", shape.rows);
  AWPF_CHECK(shape.dim <= 65535, "x must have at most 65535 features, got ", shape.dim);
  ScatterResult result(x, shape);
  const DeviceScope device(x);
  ScatterBatch batch{};
  batch.sizes = sizes_of(shape);
  const int64_t each = arena_bytes([&](Arena& arena) { allocate_batch(batch.first, batch.sizes, 1, arena); });
  const int64_t problems = std::max<int64_t>(1, std::min({shape.batch, kMaxProblems, kBatchBytes / each}));
  for (int64_t done = 0; done < shape.batch; done += problems) {
    Tensor memory = allocate_arena(x, [&](Arena& arena) { allocate_batch(batch.first, batch.sizes, problems, arena); });
    Problem& p = batch.first;
    Tensor zeroed = torch::stable::narrow(memory, 0, 0,
                                          reinterpret_cast<char*>(p.sorted_rows) - reinterpret_cast<char*>(p.offsets));
    torch::stable::zero_(zeroed);
    const int64_t area = shape.dim * shape.dim, per_class = num_classes * shape.dim;
    p.labels = labels.const_data_ptr<int64_t>() + done * shape.rows;
    p.within = result.within.mutable_data_ptr<double>() + done * area;
    p.between = result.between.mutable_data_ptr<double>() + done * area;
    p.means = result.means.mutable_data_ptr<double>() + done * per_class;
    p.counts = result.counts.mutable_data_ptr<int64_t>() + done * num_classes;
    with_element_type(x, "x", [&](auto element) {
      batch.element_bytes = int(sizeof(element));
      p.x = static_cast<const char*>(x.const_data_ptr()) + done * shape.rows * shape.dim * int64_t(sizeof(element));
      run(batch, int(std::min(problems, shape.batch - done)), device.stream, element);
    });
  }
  return {result.within, result.between, result.means, result.counts};
}

}  // namespace awpf
