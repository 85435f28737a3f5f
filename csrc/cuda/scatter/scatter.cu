// Class means and scatter matrices of labelled points.
//
// S_W = sum_i (x_i - mu_{y_i})(x_i - mu_{y_i})', S_B = sum_c n_c (mu_c - mu)(mu_c - mu)'. FLOPs: n d^2 (the lower
// triangle of tiles), three times that on tensor cores; bytes: the points twice, and from cache for every tile. No copy
// of the points is made: rows are taken in the order of their classes (order.cu), a class's mean is subtracted
// and the rest split into halves (split_tile.h) on the way to shared memory. Each feature is scaled by a power of two
// found from its range; where its spread within classes is below 2^-17 of that, halves would lose bits, and all of S_W
// is done in double instead. Sums of slices of 2,048 rows, and all else that is small, are in double; every sum has a
// fixed order.
#include <algorithm>
#include <vector>

#include "common/ops.h"
#include "common/scatter.h"
#include "cuda/device/device.h"
#include "cuda/device/memory.h"
#include "cuda/scatter/means.h"
#include "cuda/scatter/products.h"
#include "cuda/scatter/split_k.h"

namespace awpf {
namespace {

constexpr double kLeastSquare = 1.0 / 32;  // of scaled values, on average, for halves to keep their bits
constexpr int64_t kWaveBytes = int64_t(256) << 20;
constexpr int64_t kMostProblems = 1024;

// ---- sums of the ranges of rows ----

template <int kTile>
__device__ __forceinline__ double add_splits(const double* tiles, const Cut& cut, int row, int column) {
  const int tile = row / kTile * (row / kTile + 1) / 2 + column / kTile;
  const double* at = tiles + int64_t(tile) * (kTile * kTile) + row % kTile * kTile + column % kTile;
  double sum = 0;
#pragma unroll 4
  for (int split = 0; split < cut.splits; ++split) sum += at[int64_t(split) * cut.tiles * (kTile * kTile)];
  return sum;
}

// Whether the halves of some feature were too coarse for its spread; also where the points are not finite.
__global__ void __launch_bounds__(kColumnThreads) find_inexact(Wave wave) {
  const Problem p = wave.problem(blockIdx.y);
  const int column = int(blockIdx.x) * kColumnThreads + int(threadIdx.x);
  if (column >= wave.s.dim || p.ranges[column] == 0) return;
  const double square = add_splits<kSplitTile>(p.split_tiles, wave.s.split, column, column);
  if (!(square >= kLeastSquare * p.placed(wave.s))) atomicMax(p.inexact, 1);
}

enum class Sum { within, within_exact, between };

template <Sum kSum>
__global__ void __launch_bounds__(kColumnThreads) add_up(Wave wave) {
  const Problem p = wave.problem(blockIdx.z);
  const int row = blockIdx.y, column = int(blockIdx.x) * kColumnThreads + int(threadIdx.x), dim = wave.s.dim;
  if (column > row) return;
  double sum;
  if (kSum == Sum::between)
    sum = add_splits<kDoubleTile>(p.spread_tiles, wave.s.spread, row, column);
  else if (kSum == Sum::within_exact || *p.inexact != 0)
    sum = add_splits<kDoubleTile>(p.exact_tiles, wave.s.exact, row, column);
  else
    sum = ldexp(add_splits<kSplitTile>(p.split_tiles, wave.s.split, row, column),
                -split_exponent(p.ranges[row]) - split_exponent(p.ranges[column]));
  double* to = kSum == Sum::between ? p.between : p.within;
  to[int64_t(row) * dim + column] = to[int64_t(column) * dim + row] = sum;
}

// ---- launches ----

unsigned blocks_of(int64_t count, int64_t each) { return unsigned(ceil_div(count, each)); }

template <Sum kSum>
void launch_add_up(const Wave& wave, int problems, Stream stream) {
  const unsigned dim = unsigned(wave.s.dim);
  launch(add_up<kSum>, dim3(blocks_of(dim, kColumnThreads), dim, unsigned(problems)), dim3(kColumnThreads), 0, stream,
         wave);
}

template <class Rows>
void launch_exact(const Wave& wave, const Cut& cut, int problems, bool only_if_needed, Stream stream) {
  launch(multiply_exact<Rows>, dim3(unsigned(cut.tiles), unsigned(cut.splits), unsigned(problems)),
         dim3(kDoubleThreads), 2 * DoubleSlab::kSize * sizeof(double), stream, wave, only_if_needed);
}

void launch_within(const Wave& wave, int problems, Stream stream, double) {
  launch_exact<Centred<double>>(wave, wave.s.exact, problems, false, stream);
  launch_add_up<Sum::within_exact>(wave, problems, stream);
}

template <class T>
void launch_within(const Wave& wave, int problems, Stream stream, T) {
  const bool aligned = wave.s.dim % 4 == 0 && reinterpret_cast<uintptr_t>(wave.first.x) % (4 * sizeof(T)) == 0;
  launch(multiply_split<T>, dim3(unsigned(wave.s.split.tiles), unsigned(wave.s.split.splits), unsigned(problems)),
         dim3(kSplitThreads), kSharedBytes, stream, wave, aligned);
  launch(find_inexact, dim3(blocks_of(wave.s.dim, kColumnThreads), unsigned(problems)), dim3(kColumnThreads), 0, stream,
         wave);
  launch_exact<Centred<T>>(wave, wave.s.exact, problems, true, stream);
  launch_add_up<Sum::within>(wave, problems, stream);
}

template <class T>
void run(const Wave& wave, int problems, Stream stream, T element) {
  order_by_class(wave, problems, stream);
  const unsigned across = blocks_of(wave.s.dim, kColumnThreads);
  launch(add_pieces<T>, dim3(unsigned(wave.s.most_pieces), across, unsigned(problems)), dim3(kColumnThreads), 0, stream,
         wave);
  launch(find_means, dim3(unsigned(wave.s.classes), across, unsigned(problems)), dim3(kColumnThreads), 0, stream, wave);
  launch(find_ranges, dim3(blocks_of(wave.s.dim, kWarp), unsigned(problems)), dim3(kWarp * kWarp),
         kWarp * kWarp * (sizeof(double) + sizeof(Two)), stream, wave);
  launch_within(wave, problems, stream, element);
  launch_exact<Spread>(wave, wave.s.spread, problems, false, stream);
  launch_add_up<Sum::between>(wave, problems, stream);
}

Cut cut_of(int64_t dim, int64_t rows, int tile, int slab, int64_t problems) {
  const int64_t across = ceil_div<int64_t>(dim, tile), tiles = across * (across + 1) / 2;
  const int64_t slabs = ceil_div<int64_t>(rows, slab);
  const int64_t splits = best_splits(tiles * problems, slabs, multiprocessors(), 8);
  return {int(tiles), int(splits), int(ceil_div(slabs, splits) * slab)};
}

Sizes sizes_of(const ScatterShape& shape) {
  const int64_t rows = shape.rows, dim = shape.dim, classes = shape.classes;
  // At most 256 blocks of rows, and no more counts than rows and classes.
  const int64_t block_rows = round_up<int64_t>(std::max({int64_t(512), ceil_div<int64_t>(rows, 256), classes}), kWarp);
  const int64_t problems = std::min(shape.batch, kMostProblems);
  return {int(rows),
          int(dim),
          int(classes),
          int(ceil_div(rows, block_rows)),
          int(block_rows),
          int(ceil_div<int64_t>(rows, kPiece) + classes),
          cut_of(dim, rows, kSplitTile, kSplitSlab, problems),
          cut_of(dim, rows, kDoubleTile, kDoubleSlab, problems),
          cut_of(dim, classes, kDoubleTile, kDoubleSlab, problems)};
}

// One piece of memory for all arrays of a wave.
class Scratch {
 public:
  template <class T>
  void want(T** to, int64_t count) {
    wanted_.push_back({reinterpret_cast<char**>(to), bytes_});
    bytes_ += round_up<int64_t>(count * int64_t(sizeof(T)), 256);
  }
  int64_t bytes() const { return bytes_; }
  void place(char* memory) const {
    for (const auto& [to, offset] : wanted_) *to = memory + offset;
  }

 private:
  std::vector<std::pair<char**, int64_t>> wanted_;
  int64_t bytes_ = 0;
};

Scratch scratch_for(Problem& p, const Sizes& s, int64_t problems) {
  const int64_t per_class = int64_t(s.classes) * s.dim, per_piece = int64_t(s.most_pieces) * s.dim;
  const int64_t split_area = kSplitTile * kSplitTile, exact_area = kDoubleTile * kDoubleTile;
  Scratch scratch;
  scratch.want(&p.offsets, problems * s.blocks * s.classes);
  scratch.want(&p.inexact, problems);  // these two begin at zero
  scratch.want(&p.order, problems * s.rows);
  scratch.want(&p.starts, problems * (s.classes + 1));
  scratch.want(&p.pieces, problems * (s.classes + 1));
  scratch.want(&p.piece_sums, problems * per_piece);
  scratch.want(&p.piece_extremes, problems * per_piece);
  scratch.want(&p.split_means, problems * per_class);
  scratch.want(&p.extremes, problems * per_class);
  scratch.want(&p.grand, problems * s.dim);
  scratch.want(&p.ranges, problems * s.dim);
  scratch.want(&p.split_tiles, problems * s.split.blocks() * split_area);
  scratch.want(&p.exact_tiles, problems * s.exact.blocks() * exact_area);
  scratch.want(&p.spread_tiles, problems * s.spread.blocks() * exact_area);
  return scratch;
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor> scatter(Tensor x, Tensor labels, int64_t num_classes) {
  const ScatterShape shape = check_scatter(x, labels, num_classes);
  constexpr int64_t kMost = int64_t(1) << 30;
  AWPF_CHECK(shape.rows < kMost && num_classes < kMost, "x must have less than 2^30 rows and classes, got ", shape.rows,
             " and ", num_classes);
  AWPF_CHECK(shape.dim <= 65535, "x must have at most 65535 features, got ", shape.dim);
  ScatterResult result(x, shape);
  const OnDevice device(x);
  Wave wave{};
  wave.s = sizes_of(shape);
  const int64_t each = scratch_for(wave.first, wave.s, 1).bytes();
  const int64_t problems = std::max<int64_t>(1, std::min({shape.batch, kMostProblems, kWaveBytes / each}));
  const Scratch scratch = scratch_for(wave.first, wave.s, problems);
  for (int64_t done = 0; done < shape.batch; done += problems) {
    Tensor memory = new_memory(x, scratch.bytes());
    scratch.place(static_cast<char*>(memory.mutable_data_ptr()));
    Problem& p = wave.first;
    Tensor zeroed =
        torch::stable::narrow(memory, 0, 0, reinterpret_cast<char*>(p.order) - reinterpret_cast<char*>(p.offsets));
    torch::stable::zero_(zeroed);
    const int64_t area = shape.dim * shape.dim, per_class = num_classes * shape.dim;
    p.labels = labels.const_data_ptr<int64_t>() + done * shape.rows;
    p.within = result.within.mutable_data_ptr<double>() + done * area;
    p.between = result.between.mutable_data_ptr<double>() + done * area;
    p.means = result.means.mutable_data_ptr<double>() + done * per_class;
    p.counts = result.counts.mutable_data_ptr<int64_t>() + done * num_classes;
    with_element_type(x, "x", [&](auto element) {
      wave.element_bytes = int(sizeof(element));
      p.x = static_cast<const char*>(x.const_data_ptr()) + done * shape.rows * shape.dim * int64_t(sizeof(element));
      run(wave, int(std::min(problems, shape.batch - done)), device.stream, element);
    });
  }
  return {result.within, result.between, result.means, result.counts};
}

}  // namespace awpf
