// Fills the tables and packs the points that every MMD kernel reads, on the device in four launches.
//
// 1. plan_kernel: where the rows, strips and work items of each problem begin; its kernels in order of their width.
// 2. strip_sums_kernel: sums of the rows of each strip, and of their squares.
// 3. scaling_kernel: the centre of each problem and, from the spread around it, the precision that it is computed in.
// 4. pack_kernel: centred and scaled rows in two halves, and half their squared norms.
//
// Bytes: the points twice, the packed copy once.
#include "cuda/device/block.h"
#include "cuda/device/device.h"
#include "cuda/mmd/choose_precision.h"
#include "cuda/mmd/fill_layout.h"
#include "cuda/mmd/pack.h"
#include "cuda/mmd/small.h"

namespace awpf {
namespace {

constexpr int kLayoutThreads = 1024;

// __grid_constant__: otherwise the compiler keeps a copy of the layout in local memory.
__global__ void __launch_bounds__(kLayoutThreads) layout_kernel(const __grid_constant__ ProblemLayout layout) {
  fill_layout(layout, shared_memory<int64_t>());
}

// The same, and puts the kernels of each problem in order.
__global__ void __launch_bounds__(kLayoutThreads) plan_kernel(Plan plan) {
  fill_layout(plan, shared_memory<int64_t>());
  for (int64_t p = threadIdx.x; p < plan.problems; p += kLayoutThreads)
    order_kernels(plan.gamma + p * plan.kernels, plan.kernels, plan.steps + p * plan.kernels, plan.scaling[p]);
}

constexpr int kSumThreads = 128;

// A strip of either side, and the rows [begin, end) of its problem that it covers.
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
__global__ void __launch_bounds__(kSumThreads) strip_sums_kernel(PreparationPlan plan) {
  int64_t* row = shared_memory<int64_t>();
  double* scratch = reinterpret_cast<double*>(row + kStripRows);
  if (plan.flags->overfull) return;
  const T* z = static_cast<const T*>(plan.z);
  for (int64_t s = blockIdx.x; s < strips_of_both_sides(plan); s += gridDim.x) {
    const Strip strip = find_strip(plan, s);
    const int count = int(strip.end - strip.begin);
    __syncthreads();
    if (int(threadIdx.x) < count) {
      row[threadIdx.x] = plan.row_ref(strip.side, strip.problem, strip.begin + threadIdx.x).row;
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
      plan.strip_sums[s * plan.dim + k] = sum;
    }
    squares = block_sum(squares, scratch);
    if (threadIdx.x == 0) plan.strip_squares[s] = squares;
  }
}

constexpr int kScalingThreads = 256;  // of many registers each

__global__ void __launch_bounds__(kScalingThreads, 1) scaling_kernel(PreparationPlan plan) {
  PrecisionSample& sample = *shared_memory<PrecisionSample>();
  double* scratch = sample.numbers;
  if (plan.flags->overfull) return;
  for (int64_t p = blockIdx.x; p < plan.problems; p += gridDim.x) {
    const int64_t rows = plan.pooled(p);
    const int64_t first_column_strip = plan.start[plan.problems].strip[0];
    double* centre = plan.centre + p * plan.dim;
    double offset = 0, square = 0;
    const double count = rows > 0 ? double(rows) : 1.0;
    for (int k = threadIdx.x; k < plan.dim; k += kScalingThreads) {
      double sum = 0;
      for (int side = 0; side < (plan.symmetric ? 1 : 2); ++side) {
        const double* partial = plan.strip_sums + (side == 0 ? 0 : first_column_strip) * plan.dim + k;
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
      const double* partial = plan.strip_squares + (side == 0 ? 0 : first_column_strip);
      for (int64_t s = plan.start[p].strip[side] + threadIdx.x; s < plan.start[p + 1].strip[side]; s += kScalingThreads)
        square += partial[s];
    }
    offset = block_sum(offset, scratch);
    const double from_origin = block_sum(square, scratch) / count;
    const double centred = fmax(0.0, from_origin + offset);

    Scaling scaling = plan.scaling[p];
    choose_precision(plan, p, from_origin, centred, scaling, sample);
    __syncthreads();
    if (threadIdx.x == 0) plan.scaling[p] = scaling;
    __syncthreads();
  }
}

constexpr int kPackThreads = 256;

template <class T, bool kPanels>
__global__ void __launch_bounds__(kPackThreads, 3) pack_kernel(PreparationPlan plan) {
  if (plan.flags->overfull) return;
  for (int64_t s = blockIdx.x; s < strips_of_both_sides(plan); s += gridDim.x) {
    const Strip strip = find_strip(plan, s);
    const Scaling scaling = plan.scaling[strip.problem];
    if (scaling.precision == Precision::invalid) continue;
    const double* centre = plan.centre + strip.problem * plan.dim;
    const bool in_panels = kPanels && scaling.precision != Precision::fp64;
    const int warp = threadIdx.x / kWarp;
    for (int64_t i = strip.begin + warp; i < strip.end; i += kPackThreads / kWarp) {
      const int64_t row = plan.row_ref(strip.side, strip.problem, i).row;
      if (in_panels)
        pack_row<T>(plan, scaling, centre, row, PanelRow(plan, scaling.precision, strip.side, strip.problem, i));
      else
        pack_row<T>(plan, scaling, centre, row);
      if (threadIdx.x % kWarp == 0 && plan.owner[row] != int32_t(strip.problem)) plan.flags->shared_rows = 1;
    }
    if (in_panels && strip.end == plan.size(strip.side, strip.problem))
      for (int64_t i = strip.end + warp; i < round_up(strip.end, int64_t(kPanelRows)); i += kPackThreads / kWarp)
        PanelRow(plan, scaling.precision, strip.side, strip.problem, i).store_zeros();
  }
}

}  // namespace

void launch_layout(const ProblemLayout& layout, Stream stream) {
  launch(layout_kernel, dim3(1), dim3(kLayoutThreads), kWarp * sizeof(int64_t), stream, layout);
}

void fill_tables(const Prepared& prepared, Stream stream) {
  const PreparationPlan plan{prepared.plan, prepared.preparation};
  if (plan.problems == 0) return;
  const int64_t all_strips = plan.sides() * max_strips(plan.rows_of_z, plan.problems);
  const unsigned strips = unsigned(smaller(all_strips, 32 * multiprocessors()));
  launch(plan_kernel, dim3(1), dim3(kLayoutThreads), kWarp * sizeof(int64_t), stream, prepared.plan);
  with_element_type(plan.type, "z", [&](auto element) {
    using T = decltype(element);
    launch(strip_sums_kernel<T>, dim3(strips), dim3(kSumThreads), (kStripRows + kWarp) * sizeof(int64_t), stream, plan);
    launch(scaling_kernel, dim3(unsigned(smaller(plan.problems, 4 * multiprocessors()))), dim3(kScalingThreads),
           sizeof(PrecisionSample), stream, plan);
    const auto pack = plan.panels != nullptr ? pack_kernel<T, true> : pack_kernel<T, false>;
    launch(pack, dim3(strips), dim3(kPackThreads), size_t(0), stream, plan);
  });
}

Prepared prepare(const Tensor& z, const Tensor& rows, const std::optional<Tensor>& columns, const Tensor& gamma,
                 const std::optional<Tensor>& centre, bool allow_fp16, bool with_partial_sums, Stream stream) {
  const ProblemLayout layout = check_problems(z, rows, columns);
  const BlockGroups block_groups = block_groups_for(layout);
  const Route route = block_groups.count > 0 ? Route::one_launch : Route::rows;
  const Prepared prepared = plan_for(layout, z, gamma, centre, allow_fp16, with_partial_sums, route);
  if (route == Route::one_launch)
    fill_small_tables(prepared, block_groups, stream);
  else
    fill_tables(prepared, stream);
  return prepared;
}

}  // namespace awpf
