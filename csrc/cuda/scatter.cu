// Class means and scatter matrices of labelled points.
//
// S_W = sum_i (x_i - mu_{y_i})(x_i - mu_{y_i})', S_B = sum_c n_c (mu_c - mu)(mu_c - mu)'. FLOPs: n d^2 (the lower
// triangle of tiles), three times that on tensor cores; bytes: the points twice, and from cache for every tile. No copy
// of the points is made: rows are taken in the order of their classes (scatter_order.cu), a class's mean is subtracted
// and the rest split into halves (split_tile.h) on the way to shared memory. Each feature is scaled by a power of two
// found from its range; where its spread within classes is below 2^-17 of that, halves would lose bits, and all of S_W
// is done in double instead. Sums of slices of 2,048 rows, and all else that is small, are in double; every sum has a
// fixed order.
#include <algorithm>
#include <vector>

#include "../common/cuts.h"
#include "../common/ops.h"
#include "../common/scatter.h"
#include "device.h"
#include "elements.h"
#include "memory.h"
#include "scatter.h"

namespace awpf {
namespace {

constexpr int kColumnThreads = 128;
constexpr int kFlushSlabs = 64;            // slabs whose sum is kept in single precision
constexpr double kLeastSquare = 1.0 / 32;  // of scaled values, on average, for halves to keep their bits
constexpr int64_t kWaveBytes = int64_t(256) << 20;
constexpr int64_t kMostProblems = 1024;

// ---- class means ----

// The sum, least and largest value of one feature over a piece of a class.
template <class T>
__global__ void __launch_bounds__(kColumnThreads) add_pieces(Wave wave) {
  const Problem p = wave.problem(blockIdx.z);
  const int piece = blockIdx.x, classes = wave.s.classes, dim = wave.s.dim;
  const int column = int(blockIdx.y) * kColumnThreads + int(threadIdx.x);
  if (piece >= p.pieces[classes] || column >= dim) return;
  int label = 0, beyond = classes;  // pieces[label] <= piece < pieces[beyond]
  while (beyond - label > 1) {
    const int middle = (label + beyond) / 2;
    (p.pieces[middle] <= piece ? label : beyond) = middle;
  }
  const int begin = p.starts[label] + (piece - p.pieces[label]) * kPiece;
  const int end = p.starts[label + 1] - begin < kPiece ? p.starts[label + 1] : begin + kPiece;
  const T* x = static_cast<const T*>(p.x) + column;
  double sum = 0;
  Two extremes{INFINITY, -INFINITY};
#pragma unroll 8
  for (int place = begin; place < end; ++place) {
    const auto value = widen(x[int64_t(p.order[place].row) * dim]);
    sum += double(value);
    extremes.first = fminf(extremes.first, float(value));
    extremes.second = fmaxf(extremes.second, float(value));
  }
  p.piece_sums[int64_t(piece) * dim + column] = sum;
  p.piece_extremes[int64_t(piece) * dim + column] = extremes;
}

__global__ void __launch_bounds__(kColumnThreads) find_means(Wave wave) {
  const Problem p = wave.problem(blockIdx.z);
  const int label = blockIdx.x, dim = wave.s.dim;
  const int column = int(blockIdx.y) * kColumnThreads + int(threadIdx.x);
  if (column >= dim) return;
  double sum = 0;
  Two extremes{INFINITY, -INFINITY};
  for (int piece = p.pieces[label]; piece < p.pieces[label + 1]; ++piece) {
    const Two theirs = p.piece_extremes[int64_t(piece) * dim + column];
    sum += p.piece_sums[int64_t(piece) * dim + column];
    extremes = {fminf(extremes.first, theirs.first), fmaxf(extremes.second, theirs.second)};
  }
  const int64_t count = p.counts[label], place = int64_t(label) * dim + column;
  const double mean = count > 0 ? sum / double(count) : 0.0;
  const float high = float(mean);
  p.means[place] = mean;
  p.split_means[place] = {high, float(mean - double(high))};
  p.extremes[place] = extremes;
}

// The mean of all rows and the range of each feature: 32 features a block, classes over 32 warps.
__global__ void __launch_bounds__(kWarp* kWarp) find_ranges(Wave wave) {
  double* sums = shared_memory<double>();
  Two* extremes = reinterpret_cast<Two*>(sums + kWarp * kWarp);
  const Problem p = wave.problem(blockIdx.y);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, dim = wave.s.dim;
  const int column = int(blockIdx.x) * kWarp + lane;
  double sum = 0;
  Two mine{INFINITY, -INFINITY};
  if (column < dim)
#pragma unroll 4
    for (int label = warp; label < wave.s.classes; label += kWarp) {
      const int64_t place = int64_t(label) * dim + column;
      const Two theirs = p.extremes[place];
      sum += double(p.counts[label]) * p.means[place];
      mine = {fminf(mine.first, theirs.first), fmaxf(mine.second, theirs.second)};
    }
  sums[threadIdx.x] = sum;
  extremes[threadIdx.x] = mine;
  __syncthreads();
  if (warp > 0 || column >= dim) return;
  for (int other = 1; other < kWarp; ++other) {
    const Two theirs = extremes[other * kWarp + lane];
    sum += sums[other * kWarp + lane];
    mine = {fminf(mine.first, theirs.first), fmaxf(mine.second, theirs.second)};
  }
  const int rows = p.placed(wave.s);
  p.grand[column] = sum / double(rows > 0 ? rows : 1);
  p.ranges[column] = rows > 0 ? mine.second - mine.first : 0.0f;
}

// ---- products ----

struct Tile {
  int row, column;  // in tiles, column <= row
};

__device__ __forceinline__ Tile lower_tile(int index) {
  int row = int((sqrt(8.0 * index + 1) - 1) / 2);
  while ((row + 1) * (row + 2) / 2 <= index) ++row;
  while (row * (row + 1) / 2 > index) --row;
  return {row, index - row * (row + 1) / 2};
}

// Four features of one side of a tile, as one thread of a warp reads them from a few rows; `scales`: of the tile's
// features, in shared memory.
struct Features {
  int first, dim;
  bool aligned;
  const float* scales;

  __device__ __forceinline__ Features(int dim_, int tile, bool aligned_, const float* scales_)
      : first(tile * kSplitTile + int(threadIdx.x) % kWarp * 4), dim(dim_), aligned(aligned_), scales(scales_) {}

  template <class T>
  __device__ __forceinline__ void load(float (&to)[4], const Problem& p, int row) const {
    const T* from = static_cast<const T*>(p.x) + int64_t(row) * dim + first;
    load_four(to, from, dim - first, aligned && first < dim);
  }

  // Less the class's mean, scaled and split.
  __device__ __forceinline__ void store(const SplitSlab<DepthSlab>& to, int depth, const float (&value)[4],
                                        const Problem& p, int label) const {
    struct alignas(8) Four {
      uint16_t value[4];
    };
    Four hi{}, lo{};
    if (label >= 0) {
      const Two* means = p.split_means + int64_t(label) * dim + first;
      const float* scale = scales + int(threadIdx.x) % kWarp * 4;
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const Two mean = first + k < dim ? means[k] : Two{0, 0};
        const Split parts = split((value[k] - mean.first - mean.second) * scale[k]);
        hi.value[k] = parts.hi;
        lo.value[k] = parts.lo;
      }
    }
    const int place = depth * DepthSlab::kStride + int(threadIdx.x) % kWarp * 4;
    *reinterpret_cast<Four*>(const_cast<uint16_t*>(to.hi.data) + place) = hi;
    *reinterpret_cast<Four*>(const_cast<uint16_t*>(to.lo.data) + place) = lo;
  }
};

constexpr int kWarps = kSplitThreads / kWarp;
static_assert(kSplitSlab == 2 * kWarps, "each warp reads two rows of a slab");
constexpr size_t kStageHalves = 4 * DepthSlab::kSize;
constexpr size_t kSharedBytes = 2 * kStageHalves * sizeof(uint16_t) + 2 * kSplitTile * sizeof(float);

template <class T>
__global__ void __launch_bounds__(kSplitThreads) multiply_split(Wave wave, bool aligned) {
  uint16_t* shared = shared_memory<uint16_t>();
  float* scales = reinterpret_cast<float*>(shared + 2 * kStageHalves);
  const Problem p = wave.problem(blockIdx.z);
  const Cut cut = wave.s.split;
  const Tile place = lower_tile(blockIdx.x);
  const bool diagonal = place.row == place.column;
  if (threadIdx.x < 2 * kSplitTile) {
    const int tile = threadIdx.x < kSplitTile ? place.row : place.column;
    const int feature = tile * kSplitTile + int(threadIdx.x) % kSplitTile;
    scales[threadIdx.x] = feature < wave.s.dim ? power_of_two(split_exponent(p.ranges[feature])) : 0.0f;
  }
  __syncthreads();
  const Features left(wave.s.dim, place.row, aligned, scales);
  const Features right(wave.s.dim, place.column, aligned, scales + kSplitTile);
  const int placed = p.placed(wave.s), warp = threadIdx.x / kWarp;
  const int64_t first = int64_t(blockIdx.y) * cut.rows;
  const int begin = first < placed ? int(first) : placed;
  const int end = placed - begin < cut.rows ? placed : begin + cut.rows;
  const int slabs = ceil_div(end - begin, kSplitSlab);

  // A slab is fetched in halves, so that less of it waits in registers.
  float a[4], b[4];
  int label = -1;
  const auto fetch = [&](int slab, int half) {
    const int at = begin + slab * kSplitSlab + half * kWarps + warp;
    const Placed row = at < end ? p.order[at] : Placed{0, -1};
    label = row.label;
    if (label >= 0) {
      left.template load<T>(a, p, row.row);
      if (!diagonal) right.template load<T>(b, p, row.row);
    }
  };
  const auto stage = [&](int slab, int side) {
    uint16_t* base = shared + slab % 2 * kStageHalves + (diagonal ? 0 : side) * 2 * DepthSlab::kSize;
    return SplitSlab<DepthSlab>{{base}, {base + DepthSlab::kSize}};
  };
  const auto store = [&](int slab, int half) {
    left.store(stage(slab, 0), half * kWarps + warp, a, p, label);
    if (!diagonal) right.store(stage(slab, 1), half * kWarps + warp, b, p, label);
  };

  // Found anew where it is written, rather than kept in registers through the loop.
  const auto flush = [&](const SplitTile& tile, bool anew) {
    const int64_t index = int64_t(blockIdx.y) * cut.tiles + blockIdx.x;
    double* sums = wave.problem(blockIdx.z).split_tiles + index * (kSplitTile * kSplitTile);
    tile.for_pairs([&](int r, int c, float one, float two) {
      double* to = sums + r * kSplitTile + c;
      to[0] = anew ? double(one) : to[0] + double(one);
      to[1] = anew ? double(two) : to[1] + double(two);
    });
  };
  const bool busy = !diagonal || SplitTile::first_column() <= SplitTile::first_row();
  SplitTile tile;
  tile.clear();
  if (slabs > 0) {
    fetch(0, 0);
    store(0, 0);
    fetch(0, 1);
    store(0, 1);
  }
  __syncthreads();
  for (int slab = 0; slab < slabs; ++slab) {
    const bool more = slab + 1 < slabs;
    const auto exchange = [&] {
      if (!more) return;
      store(slab + 1, 0);
      fetch(slab + 1, 1);
    };
    if (more) fetch(slab + 1, 0);
    if (busy)
      tile.template add<true>(stage(slab, 0), stage(slab, 1), exchange);
    else
      exchange();
    if (more) store(slab + 1, 1);
    __syncthreads();
    if (more && slab % kFlushSlabs == kFlushSlabs - 1 && busy) {
      flush(tile, slab < kFlushSlabs);
      tile.clear();
    }
  }
  if (busy) flush(tile, slabs <= kFlushSlabs);
}

// Rows less their class's mean...
template <class T>
struct Centred {
  static __device__ __forceinline__ int count(const Problem& p, const Sizes& s) { return p.placed(s); }
  static __device__ __forceinline__ double at(const Problem& p, const Sizes& s, int place, int column) {
    const Placed row = p.order[place];
    return double(widen(static_cast<const T*>(p.x)[int64_t(row.row) * s.dim + column])) -
           p.means[int64_t(row.label) * s.dim + column];
  }
  static __device__ __forceinline__ Cut cut(const Sizes& s) { return s.exact; }
  static __device__ __forceinline__ double* tiles(const Problem& p) { return p.exact_tiles; }
};

// ... and class means less the mean of all, weighted by the root of their counts.
struct Spread {
  static __device__ __forceinline__ int count(const Problem&, const Sizes& s) { return s.classes; }
  static __device__ __forceinline__ double at(const Problem& p, const Sizes& s, int label, int column) {
    const int64_t rows = p.counts[label];
    return rows > 0 ? sqrt(double(rows)) * (p.means[int64_t(label) * s.dim + column] - p.grand[column]) : 0.0;
  }
  static __device__ __forceinline__ Cut cut(const Sizes& s) { return s.spread; }
  static __device__ __forceinline__ double* tiles(const Problem& p) { return p.spread_tiles; }
};

template <class Rows>
__global__ void __launch_bounds__(kDoubleThreads, 2) multiply_exact(Wave wave, bool only_if_needed) {
  double* shared = shared_memory<double>();
  const DoubleSlab left{shared}, right{shared + DoubleSlab::kSize};
  const Problem p = wave.problem(blockIdx.z);
  if (only_if_needed && *p.inexact == 0) return;
  const Cut cut = Rows::cut(wave.s);
  const Tile place = lower_tile(blockIdx.x);
  const int count = Rows::count(p, wave.s), dim = wave.s.dim;
  const int64_t first = int64_t(blockIdx.y) * cut.rows;
  const int begin = first < count ? int(first) : count;
  const int end = count - begin < cut.rows ? count : begin + cut.rows;
  const auto fill = [&](const DoubleSlab& side, int tile, int at) {
    side.fill<false>([&](int row, int depth) {
      const int column = tile * kDoubleTile + row;
      return at + depth < end && column < dim ? Rows::at(p, wave.s, at + depth, column) : 0.0;
    });
  };
  DoubleTile tile;
  tile.clear();
  for (int at = begin; at < end; at += kDoubleSlab) {
    fill(left, place.row, at);
    fill(right, place.column, at);
    __syncthreads();
    tile.add(left, right);
    __syncthreads();
  }
  double* sums = Rows::tiles(p) + (int64_t(blockIdx.y) * cut.tiles + blockIdx.x) * (kDoubleTile * kDoubleTile);
  tile.for_each([&](int r, int c, double value) { sums[r * kDoubleTile + c] = value; });
}

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
