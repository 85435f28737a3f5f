// The tables and packed points that every MMD kernel reads, made on the device in four launches.
//
// 1 plan: where each problem's rows, strips and work begin; the kernels of each problem in order of their width.
// 2 centre sums: sums of strips of rows, and of their squares. 3 frames: the centre of each problem, and from the
// spread around it the precision it is computed in. 4 pack: centred, scaled rows in two halves, and half their squared
// norms. Bytes: the points twice, the packed copy once.
#include "cuda/device/block.h"
#include "cuda/device/device.h"
#include "cuda/mmd/layout.h"
#include "cuda/mmd/pack.h"
#include "cuda/mmd/small.h"

namespace awpf {
namespace {

constexpr int kPlanThreads = 1024;

__global__ void __launch_bounds__(kPlanThreads) plan_kernel(Plan plan) {
  lay_out(plan, shared_memory<int64_t>());
  for (int64_t p = threadIdx.x; p < plan.problems && plan.kernels > 0; p += kPlanThreads)
    order_kernels(plan.gamma + p * plan.kernels, plan.kernels, plan.steps + p * plan.kernels, plan.frame[p]);
}

constexpr int kSumThreads = 128;

// A strip of either side: which problem, and the places it covers.
struct Strip {
  int side;
  int64_t problem, index, begin, end;
};

__device__ Strip find_strip(const Plan& plan, int64_t strip) {
  Strip found;
  const int64_t rows = plan.start[plan.problems].strip[0];
  found.side = strip < rows ? 0 : 1;
  if (found.side == 1) strip -= rows;
  found.problem = find_problem(plan.problems, strip, [&](int64_t p) { return plan.start[p].strip[found.side]; });
  found.index = strip - plan.start[found.problem].strip[found.side];
  found.begin = found.index * kStripRows;
  found.end = smaller(found.begin + kStripRows, plan.size(found.side, found.problem));
  return found;
}

__device__ int64_t strips_of_both_sides(const Plan& plan) {
  const ProblemStart& end = plan.start[plan.problems];
  return end.strip[0] + (plan.symmetric ? 0 : end.strip[1]);
}

template <class T>
__global__ void __launch_bounds__(kSumThreads) centre_sums_kernel(Plan plan) {
  int64_t* row = shared_memory<int64_t>();
  double* scratch = reinterpret_cast<double*>(row + kStripRows);
  if (plan.flags->crowded) return;
  const T* z = static_cast<const T*>(plan.z);
  for (int64_t s = blockIdx.x; s < strips_of_both_sides(plan); s += gridDim.x) {
    const Strip strip = find_strip(plan, s);
    const int count = int(strip.end - strip.begin);
    __syncthreads();
    if (int(threadIdx.x) < count) {
      row[threadIdx.x] = plan.at(strip.side, strip.problem, strip.begin + threadIdx.x).row;
      plan.owner[row[threadIdx.x]] = int32_t(strip.problem);
    }
    __syncthreads();
    double squares = 0;
    for (int k = threadIdx.x; k < plan.dim; k += kSumThreads) {
      double sum = 0;
#pragma unroll 16
      for (int r = 0; r < count; ++r) {
        const double value = widen(z[row[r] * plan.dim + k]);
        sum += value;
        squares += value * value;
      }
      plan.partial[s * plan.dim + k] = sum;
    }
    squares = block_sum(squares, scratch);
    if (threadIdx.x == 0) plan.partial_square[s] = squares;
  }
}

constexpr int kFrameThreads = 512;

__global__ void __launch_bounds__(kFrameThreads) frame_kernel(Plan plan) {
  double* scratch = shared_memory<double>();
  if (plan.flags->crowded) return;
  for (int64_t p = blockIdx.x; p < plan.problems; p += gridDim.x) {
    const int64_t rows = plan.pooled(p);
    const int64_t first_column_strip = plan.start[plan.problems].strip[0];
    double* centre = plan.centre + p * plan.dim;
    double offset = 0, square = 0;
    const double count = rows > 0 ? double(rows) : 1.0;
    for (int k = threadIdx.x; k < plan.dim; k += kFrameThreads) {
      double sum = 0;
      for (int side = 0; side < (plan.symmetric ? 1 : 2); ++side) {
        const double* partial = plan.partial + (side == 0 ? 0 : first_column_strip) * plan.dim + k;
        const int64_t end = plan.start[p + 1].strip[side];
#pragma unroll 8
        for (int64_t s = plan.start[p].strip[side]; s < end; ++s) sum += partial[s * plan.dim];
      }
      const double mean = sum / count;
      const double chosen = plan.given_centre != nullptr ? plan.given_centre[p * plan.dim + k] : mean;
      centre[k] = chosen;
      offset += chosen * (chosen - 2.0 * mean);
    }
    for (int side = 0; side < (plan.symmetric ? 1 : 2); ++side) {
      const double* partial = plan.partial_square + (side == 0 ? 0 : first_column_strip);
      for (int64_t s = plan.start[p].strip[side] + threadIdx.x; s < plan.start[p + 1].strip[side]; s += kFrameThreads)
        square += partial[s];
    }
    offset = block_sum(offset, scratch);
    const double from_origin = block_sum(square, scratch) / count;
    const double centred = fmax(0.0, from_origin + offset);

    Frame frame = plan.frame[p];
    choose_precision(plan, rows, from_origin, centred, frame);
    __syncthreads();
    if (threadIdx.x == 0) plan.frame[p] = frame;
    __syncthreads();
  }
}

constexpr int kPackThreads = 256;

template <class T, bool kPanels>
__global__ void __launch_bounds__(kPackThreads, 3) pack_kernel(Plan plan) {
  if (plan.flags->crowded) return;
  for (int64_t s = blockIdx.x; s < strips_of_both_sides(plan); s += gridDim.x) {
    const Strip strip = find_strip(plan, s);
    const Frame frame = plan.frame[strip.problem];
    if (frame.mode == Mode::invalid) continue;
    const double* centre = plan.centre + strip.problem * plan.dim;
    const bool in_panels = kPanels && frame.mode != Mode::in_double;
    const int warp = threadIdx.x / kWarp;
    for (int64_t i = strip.begin + warp; i < strip.end; i += kPackThreads / kWarp) {
      const int64_t row = plan.at(strip.side, strip.problem, i).row;
      if (in_panels)
        pack_row<T>(plan, frame, centre, row, PanelRow(plan, frame.mode, strip.side, strip.problem, i));
      else
        pack_row<T>(plan, frame, centre, row);
      if (threadIdx.x % kWarp == 0 && plan.owner[row] != int32_t(strip.problem)) plan.flags->shared = 1;
    }
    if (in_panels && strip.end == plan.size(strip.side, strip.problem))
      for (int64_t i = strip.end + warp; i < round_up(strip.end, int64_t(kPanelRows)); i += kPackThreads / kWarp)
        PanelRow(plan, frame.mode, strip.side, strip.problem, i).put_zeros();
  }
}

}  // namespace

void start_layout(const Plan& plan, Stream stream) {
  launch(plan_kernel, dim3(1), dim3(kPlanThreads), kWarp * sizeof(int64_t), stream, plan);
}

void fill_tables(const Plan& plan, Stream stream) {
  if (plan.problems == 0) return;
  const int sides = plan.symmetric ? 1 : 2;
  const unsigned strips = unsigned(smaller(sides * most_strips(plan.rows_of_z, plan.problems), 32 * multiprocessors()));
  start_layout(plan, stream);
  with_element_type(plan.type, "z", [&](auto element) {
    using T = decltype(element);
    launch(centre_sums_kernel<T>, dim3(strips), dim3(kSumThreads), (kStripRows + kWarp) * sizeof(int64_t), stream,
           plan);
    launch(frame_kernel, dim3(unsigned(smaller(plan.problems, 4 * multiprocessors()))), dim3(kFrameThreads),
           kWarp * sizeof(double), stream, plan);
    const auto pack = plan.panels != nullptr ? pack_kernel<T, true> : pack_kernel<T, false>;
    launch(pack, dim3(strips), dim3(kPackThreads), size_t(0), stream, plan);
  });
}

Prepared prepare(const Tensor& z, const Tensor& rows, const std::optional<Tensor>& columns, const Tensor& gamma,
                 const std::optional<Tensor>& centre, bool one_product, bool with_slots, Stream stream) {
  const Prepared prepared = plan_for(z, rows, columns, gamma, centre, one_product, with_slots);
  const Plan& plan = prepared.plan;
  const Crews crews = small_crews(plan);
  if (crews.count > 0)
    fill_small_tables(plan, crews, stream);
  else
    fill_tables(plan, stream);
  return prepared;
}

}  // namespace awpf
