// The tables and packed points that every MMD kernel reads, made on the device in four launches.
//
// 1 plan: where each problem's rows, strips and work begin; the kernels of each problem in order of their width.
// 2 centre sums: sums of strips of rows, and of their squares. 3 frames: the centre of each problem, and from the
// spread around it the precision it is computed in. 4 pack: centred, scaled rows in two halves, and half their squared
// norms. Bytes: the points twice, the packed copy once.
#include <optional>

#include "block.h"
#include "device.h"
#include "memory.h"
#include "mmd_plan.h"

namespace awpf {
namespace {

constexpr int kPlanThreads = 1024;

__global__ void __launch_bounds__(kPlanThreads) plan_kernel(Plan plan) {
  int64_t* scratch = shared_memory<int64_t>();
  const int sides = plan.symmetric ? 1 : 2;
  for (int side = 0; side < sides; ++side) {
    int64_t* place = plan.place[side];
    const int64_t groups = plan.problems * plan.groups[side];
    const int64_t total = block_scan(
        groups, scratch, [&](int64_t i) { return plan.group_length(side, i); },
        [&](int64_t i, int64_t before) { place[i] = before; });
    if (threadIdx.x == 0) place[groups] = total;
    __syncthreads();
  }
  const auto place_of = [&](int side, int64_t p) { return plan.place[side][p * plan.groups[side]]; };
  const auto size_of = [&](int side, int64_t p) { return place_of(side, p + 1) - place_of(side, p); };
  bool crowded = false;
  for (int side = 0; side < 2; ++side) {
    const int from = plan.symmetric ? 0 : side;
    const int64_t strips = block_scan(
        plan.problems, scratch, [&](int64_t p) { return pieces(size_of(from, p), kStripRows); },
        [&](int64_t p, int64_t before) {
          plan.start[p].strip[side] = before;
          plan.start[p].place[side] = place_of(from, p);
        });
    if (threadIdx.x == 0) {
      plan.start[plan.problems].strip[side] = strips;
      plan.start[plan.problems].place[side] = place_of(from, plan.problems);
    }
    crowded = crowded || place_of(from, plan.problems) > plan.rows_of_z;
  }
  const int64_t items = block_scan(
      plan.problems, scratch,
      [&](int64_t p) { return Schedule{size_of(0, p), size_of(plan.symmetric ? 0 : 1, p), plan.symmetric}.items(); },
      [&](int64_t p, int64_t before) { plan.start[p].item = before; });
  if (threadIdx.x == 0) {
    plan.start[plan.problems].item = items;
    plan.flags->crowded = crowded;
    plan.flags->shared = 0;
  }
  for (int64_t p = threadIdx.x; p < plan.problems && plan.kernels > 0; p += kPlanThreads) {
    Step* steps = plan.steps + p * plan.kernels;
    const double* gamma = plan.gamma + p * plan.kernels;
    for (int s = 0; s < plan.kernels; ++s) {  // insertion: there are few
      int to = s;
      for (; to > 0 && steps[to - 1].rate > gamma[s]; --to) steps[to].rate = steps[to - 1].rate;
      steps[to].rate = gamma[s];
    }
    const double widest = steps[0].rate;
    double sum;
    const bool valid = fill_steps(steps, plan.kernels, &sum);
    plan.frame[p].weight = 2.0 * sum / plan.kernels;
    plan.frame[p].mode = valid ? Mode::in_double : Mode::invalid;
    plan.frame[p].unit = 2.0 * widest / 0.69314718055994530942;  // of unscaled points, for now
  }
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
#pragma unroll 4
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
  const bool wide = plan.type == ScalarType::Double;
  const bool narrow_input = plan.type == ScalarType::Half || plan.type == ScalarType::BFloat16;
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
#pragma unroll 4
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
    const double mean_gamma = 0.5 * frame.weight;
    // 16-bit input is multiplied as it is where the origin is nearly as good a centre: products are exact then.
    const bool as_it_is = narrow_input && plan.given_centre == nullptr && from_origin <= 8 * centred &&
                          float_is_enough(mean_gamma * from_origin, rows);
    frame.mean_square = as_it_is ? from_origin : centred;
    // Differences, not the products with NaN that fmax would lose.
    if (frame.mode != Mode::invalid) {
      if (!(from_origin - from_origin == 0))
        frame.mode = Mode::invalid;
      else if (as_it_is)
        frame.mode = Mode::single;
      else if (!wide && float_is_enough(mean_gamma * centred, rows))
        frame.mode = Mode::split;
    }
    const bool packed = frame.mode == Mode::single || frame.mode == Mode::split;
    frame.scale = packed ? packing_scale(frame.mean_square, rows) : 1.0;
    frame.unit = frame.unit / (frame.scale * frame.scale);
    __syncthreads();
    if (as_it_is)
      for (int k = threadIdx.x; k < plan.dim; k += kFrameThreads) centre[k] = 0;
    if (threadIdx.x == 0) plan.frame[p] = frame;
    __syncthreads();
  }
}

constexpr int kPackThreads = 256;

template <class T>
__global__ void __launch_bounds__(kPackThreads) pack_kernel(Plan plan) {
  if (plan.flags->crowded) return;
  const T* z = static_cast<const T*>(plan.z);
  const int lane = threadIdx.x % kWarp;
  for (int64_t s = blockIdx.x; s < strips_of_both_sides(plan); s += gridDim.x) {
    const Strip strip = find_strip(plan, s);
    const Frame frame = plan.frame[strip.problem];
    if (frame.mode == Mode::invalid) continue;
    const double* centre = plan.centre + strip.problem * plan.dim;
    for (int64_t i = strip.begin + threadIdx.x / kWarp; i < strip.end; i += kPackThreads / kWarp) {
      const int64_t row = plan.at(strip.side, strip.problem, i).row;
      const T* from = z + row * plan.dim;
      double norm = 0;
      if (frame.mode == Mode::in_double) {
        for (int k = lane; k < plan.dim; k += kWarp) {
          const double value = double(widen(from[k])) - centre[k];
          norm += value * value;
        }
      } else {
        for (int k = 2 * lane; k < plan.pitch; k += 2 * kWarp) {
          uint32_t high = 0, low = 0;
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            float value = 0;
            if (k + e < plan.dim) value = float((double(widen(from[k + e])) - centre[k + e]) * frame.scale);
            const uint16_t hi = half_bits(value), lo = half_bits(value - half_value(hi));
            const double kept = double(half_value(hi)) + double(half_value(lo));
            norm += kept * kept;
            high |= uint32_t(hi) << 16 * e;
            low |= uint32_t(lo) << 16 * e;
          }
          *reinterpret_cast<uint32_t*>(plan.hi + row * plan.pitch + k) = high;
          *reinterpret_cast<uint32_t*>(plan.lo + row * plan.pitch + k) = low;
        }
      }
      norm = warp_sum(norm);
      if (lane == 0) {
        plan.norm[row] = 0.5 * norm;
        if (plan.owner[row] != int32_t(strip.problem)) plan.flags->shared = 1;
      }
    }
  }
}

void check_ranges(const Tensor& ranges, const Tensor& z, const char* name) {
  check_beside(ranges, z, name, "z");
  check_type(ranges, ScalarType::Long, name, "int64");
  AWPF_CHECK(ranges.dim() == 3 && ranges.size(2) == 2, name, " must have shape (problems, groups, 2)");
}

void carve(Plan& plan, Carver& carver, bool with_slots) {
  const int sides = plan.symmetric ? 1 : 2;
  const int64_t strips = most_strips(plan.rows_of_z, plan.problems);
  carve_layout(plan, carver);
  plan.steps = carver.take<Step>(plan.problems * plan.kernels);
  plan.frame = carver.take<Frame>(plan.problems);
  plan.centre = carver.take<double>(plan.problems * plan.dim);
  plan.partial = carver.take<double>(sides * strips * plan.dim);
  plan.partial_square = carver.take<double>(sides * strips);
  plan.owner = carver.take<int32_t>(plan.rows_of_z);
  plan.norm = carver.take<double>(plan.rows_of_z);
  const int64_t packed = plan.type == ScalarType::Double ? 0 : plan.rows_of_z * plan.pitch;
  plan.hi = carver.take<uint16_t>(packed);
  plan.lo = carver.take<uint16_t>(packed);
  const SlotTable slots{plan.groups[0], plan.groups[1]};
  plan.slots = with_slots ? carver.take<double>((strips + plan.problems * plan.groups[0]) * slots.width()) : nullptr;
}

}  // namespace

Plan describe(const Tensor& z, const Tensor& rows, const std::optional<Tensor>& columns) {
  check_beside(z, z, "z", "z");
  AWPF_CHECK(z.dim() == 2, "z must have two dimensions");
  with_element_type(z, "z", [](auto) {});
  check_ranges(rows, z, "rows");
  if (columns.has_value()) {
    check_ranges(*columns, z, "columns");
    AWPF_CHECK(columns->size(0) == rows.size(0), "columns must have as many problems as rows");
  }
  const int64_t row_groups = rows.size(1), column_groups = columns.has_value() ? columns->size(1) : row_groups;
  const int64_t most = int64_t(1) << 30;
  AWPF_CHECK(z.size(1) < most && row_groups < most && column_groups < most && rows.size(0) < most,
             "at most 2^30 features, groups and problems");
  Plan plan{};
  plan.z = z.const_data_ptr();
  plan.type = z.scalar_type();
  plan.rows_of_z = z.size(0);
  plan.problems = rows.size(0);
  plan.dim = int(z.size(1));
  plan.pitch = round_up(plan.dim, kPackedSlab);
  plan.groups[0] = int(row_groups);
  plan.groups[1] = int(column_groups);
  plan.symmetric = !columns.has_value();
  plan.ranges[0] = rows.const_data_ptr<int64_t>();
  plan.ranges[1] = columns.has_value() ? columns->const_data_ptr<int64_t>() : plan.ranges[0];
  return plan;
}

void carve_layout(Plan& plan, Carver& carver) {
  for (int side = 0; side < (plan.symmetric ? 1 : 2); ++side)
    plan.place[side] = carver.take<int64_t>(plan.problems * plan.groups[side] + 1);
  if (plan.symmetric) plan.place[1] = plan.place[0];
  plan.start = carver.take<ProblemStart>(plan.problems + 1);
  plan.flags = carver.take<Flags>(1);
}

void start_layout(const Plan& plan, Stream stream) {
  launch(plan_kernel, dim3(1), dim3(kPlanThreads), kWarp * sizeof(int64_t), stream, plan);
}

Prepared prepare(const Tensor& z, const Tensor& rows, const std::optional<Tensor>& columns, const Tensor& gamma,
                 const std::optional<Tensor>& centre, bool with_slots, Stream stream) {
  Plan plan = describe(z, rows, columns);
  const int64_t problems = plan.problems;
  check_beside(gamma, z, "gamma", "z");
  check_type(gamma, ScalarType::Double, "gamma", "float64");
  AWPF_CHECK(gamma.dim() == 2 && gamma.size(0) == problems, "gamma must have shape (problems, kernels)");
  AWPF_CHECK(gamma.size(1) > 0, "bandwidth: at least one kernel is needed");
  if (centre.has_value()) {
    check_beside(*centre, z, "centre", "z");
    check_type(*centre, ScalarType::Double, "centre", "float64");
    AWPF_CHECK(centre->dim() == 2 && centre->size(0) == problems && centre->size(1) == z.size(1),
               "centre must have shape (problems, d)");
  }
  AWPF_CHECK(gamma.size(1) < int64_t(1) << 30, "at most 2^30 kernels");
  plan.kernels = int(gamma.size(1));
  plan.gamma = gamma.const_data_ptr<double>();
  plan.given_centre = centre.has_value() ? centre->const_data_ptr<double>() : nullptr;
  Carver counter{nullptr};
  carve(plan, counter, with_slots);
  Tensor memory = new_memory(z, counter.used);
  Carver carver{static_cast<char*>(memory.mutable_data_ptr())};
  carve(plan, carver, with_slots);
  if (problems == 0) return {plan, memory};

  const int sides = plan.symmetric ? 1 : 2;
  const unsigned strips = unsigned(smaller(sides * most_strips(plan.rows_of_z, problems), 32 * multiprocessors()));
  start_layout(plan, stream);
  with_element_type(z, "z", [&](auto element) {
    using T = decltype(element);
    launch(centre_sums_kernel<T>, dim3(strips), dim3(kSumThreads), (kStripRows + kWarp) * sizeof(int64_t), stream,
           plan);
    launch(frame_kernel, dim3(unsigned(smaller(problems, 4 * multiprocessors()))), dim3(kFrameThreads),
           kWarp * sizeof(double), stream, plan);
    launch(pack_kernel<T>, dim3(strips), dim3(kPackThreads), size_t(0), stream, plan);
  });
  return {plan, memory};
}

}  // namespace awpf
