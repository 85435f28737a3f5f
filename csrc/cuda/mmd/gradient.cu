// The gradient of a weighted sum of block sums and, if wanted, the sums themselves in the same pass.
//
// With P_ij = c_gh mean_s 2 gamma_s k_s(z_i, z_j): dz_i = sum_j P_ij z_j - (sum_j P_ij) z_i. A block owns a strip of
// rows and a chunk of features. It loops over all tiles of columns, computes P one tile at a time and multiplies it
// with the points at once: no n x n memory, one writer for every value, no atomics. FLOPs for n rows: 2 n^2 d for each
// chunk of 256 features (each computes P anew) and 2 n^2 d for the second product; three times that with split halves.
#include <type_traits>

#include "common/allocate.h"
#include "cuda/device/device.h"
#include "cuda/mmd/gradient_tile.h"
#include "cuda/mmd/partial_sums.h"

namespace awpf {
namespace {

// The sum whose gradient is computed, and the output.
struct GradientCall {
  const double* coefficients;
  void* gradient;
  ScalarType type;
  int side;        // whose rows are owned: 0 rows, 1 columns
  bool with_sums;  // only with a symmetric problem
};

// The coefficient of a pair of groups, of which `g` is on the owned side. A symmetric sum holds every pair twice.
__device__ __forceinline__ double coefficient(const Plan& plan, const GradientCall& call, int64_t p, int g, int h) {
  const double* c = call.coefficients + p * plan.groups[0] * plan.groups[1];
  if (call.side == 1) return c[int64_t(h) * plan.groups[1] + g];
  const double value = c[int64_t(g) * plan.groups[1] + h];
  return plan.symmetric ? value + c[int64_t(h) * plan.groups[1] + g] : value;
}

// The owned rows, in shared memory.
struct Owned {
  double power[kStripRows];   // a power of two that scales weights so that the largest is below 2^15
  double factor[kStripRows];  // that scales the result
  double weight[kStripRows];  // sum_j P_ij, scaled by the power
  double part[4][kStripRows];
  int has_lost;  // whether the tile has pairs whose distances were lost
};

__device__ double weight_scale(const Plan& plan, const GradientCall& call, int64_t p, int g) {
  double largest = 0;
  for (int h = 0; h < plan.groups[1 - call.side]; ++h) largest = fmax(largest, fabs(coefficient(plan, call, p, g, h)));
  return largest > 1e-290 && largest < 1e290 ? ldexp(1.0, 14 - ilogb(largest)) : 1.0;
}

__device__ __forceinline__ void store(void* to, ScalarType type, int64_t index, double value) {
  switch (type) {
    case ScalarType::Half: return narrow(float(value), static_cast<F16*>(to) + index);
    case ScalarType::BFloat16: return narrow(float(value), static_cast<BF16*>(to) + index);
    case ScalarType::Float: return narrow(float(value), static_cast<float*>(to) + index);
    default: return narrow(value, static_cast<double*>(to) + index);
  }
}

// Stores NaN for the rows of all groups, from the ranges alone.
__device__ void fill_with_nan(const Plan& plan, const GradientCall& call) {
  const int64_t groups = plan.problems * plan.groups[call.side];
  for (int64_t group = blockIdx.x; group < groups; group += gridDim.x) {
    const int64_t values = plan.group_length(call.side, group) * plan.dim;
    const int64_t first = plan.group_begin(call.side, group) * plan.dim;
    for (int64_t k = threadIdx.x; k < values; k += kGramThreads) store(call.gradient, call.type, first + k, nan(""));
  }
}

// Stores NaN for the owned rows of a problem that cannot be computed.
__device__ void fill_rows_with_nan(const Plan& plan, const GradientCall& call, int64_t p, int strip) {
  const int64_t end = smaller(plan.size(call.side, p), (strip + 1) * int64_t(kStripRows));
  for (int64_t i = strip * int64_t(kStripRows) + threadIdx.x / kWarp; i < end; i += kGramThreads / kWarp) {
    const int64_t row = plan.row_ref(call.side, p, i).row;
    for (int k = threadIdx.x % kWarp; k < plan.dim; k += kWarp)
      store(call.gradient, call.type, row * plan.dim + k, nan(""));
  }
}

template <class Gradient>
constexpr size_t region_bytes() {
  return Gradient::kSharedBytes > Gradient::Gram::kSharedBytes ? Gradient::kSharedBytes : Gradient::Gram::kSharedBytes;
}

template <class Gradient>
__global__ void __launch_bounds__(kGramThreads, 1) gradient_kernel(Plan plan, GradientCall call) {
  using Gram = typename Gradient::Gram;
  using T = typename Gram::Value;
  char* const shared = shared_memory<char>();
  TilePoints<T>& tile_points = *reinterpret_cast<TilePoints<T>*>(shared + region_bytes<Gradient>());
  Owned& owned = *reinterpret_cast<Owned*>(&tile_points + 1);
  const bool invalid = !plan.tables_valid();  // groups that share rows: the gradient is not defined
  // This kernel is launched last, and always, so it stores NaN where there is no result.
  constexpr bool kIsDouble = std::is_same<Gradient, DoubleGradient>::value;
  if (invalid && plan.flags->overfull) {
    if (kIsDouble) fill_with_nan(plan, call);
    return;
  }
  const int side = call.side, other = plan.symmetric ? 0 : 1 - side;
  const int64_t feature_chunks = larger(1, ceil_div(plan.dim, Gradient::kFeatures));
  const int64_t items = plan.start[plan.problems].strip[side] * feature_chunks;
  for (int64_t item = blockIdx.x; item < items; item += gridDim.x) {
    const int64_t all_strips = item / feature_chunks;
    const int p = int(find_problem(plan.problems, all_strips, [&](int64_t q) { return plan.start[q].strip[side]; }));
    const int strip = int(all_strips - plan.start[p].strip[side]);
    const Precision precision = plan.scaling[p].precision;
    if (kIsDouble && precision == Precision::invalid && item % feature_chunks == 0)
      fill_rows_with_nan(plan, call, p, strip);
    if (!Gram::computes(precision)) continue;
    const int chunk = int(item % feature_chunks), first_feature = chunk * Gradient::kFeatures;
    const auto schedule_of = [&] { return Schedule{plan.size(side, p), plan.size(other, p), plan.symmetric}; };
    __syncthreads();
    tile_points.fill_rows(plan, side, p, strip);
    __syncthreads();
    if (threadIdx.x < kStripRows) {
      const int g = tile_points.group[threadIdx.x];
      const double power = g < 0 ? 1.0 : weight_scale(plan, call, p, g);
      owned.power[threadIdx.x] = power;
      owned.factor[threadIdx.x] = invalid ? nan("") : plan.scaling[p].weight / plan.scaling[p].scale / power;
    }

    Gradient gradient;
    gradient.clear();
    owned.part[threadIdx.x / kStripRows][threadIdx.x % kStripRows] = 0;
    const int tiles = int(schedule_of().tiles());
    for (int tile = 0; tile < tiles; ++tile) {
      __syncthreads();
      tile_points.fill_columns(plan, other, p, tile);
      if (threadIdx.x == 0) owned.has_lost = 0;
      __syncthreads();
      Fragment<T> value;
      const bool lost = Gram::multiply(plan, p, plan.scaling[p].precision, tile_points, shared, value);
      if (kIsDouble) {
        if (lost) owned.has_lost = 1;
        __syncthreads();
      }
      const KernelStep* const steps = plan.steps + int64_t(p) * plan.kernels;
      const T unit = T(plan.scaling[p].unit);
      const Schedule schedule = schedule_of();
      const TileMask in_range(schedule, strip, tile, false), below(schedule, strip, tile, true);
      // Weights go to shared memory; the fragment keeps the kernel values for the sums.
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = fragment_row(i), g = tile_points.group[row];
        T total = 0;
#pragma unroll
        for (int first = 0; first < 8; first += Gram::kAtOnce) {
          T sums[Gram::kAtOnce], weights[Gram::kAtOnce];
          kernel_sums<true>(plan, steps, unit, tile_points, value, i, first, sums, weights);
#pragma unroll
          for (int k = 0; k < Gram::kAtOnce; ++k) {
            const int column = fragment_column((first + k) / 2, k % 2);
            const bool itself = plan.symmetric && column == row + in_range.diagonal;
            const bool counts = in_range(row, column) && !itself;
            const int h = tile_points.group[kStripRows + column];
            weights[k] = counts ? weights[k] * T(owned.power[row] * coefficient(plan, call, p, g, h)) : T(0);
            value[i][(first + k) / 2][k % 2] = below(row, column) ? sums[k] : T(0);
          }
#pragma unroll
          for (int k = 0; k < Gram::kAtOnce; k += 2)
            total += Gradient::store(shared, row, fragment_column((first + k) / 2, 0), weights[k], weights[k + 1]);
        }
        // Four lanes of each of four warps share a row.
        double row_weight = double(total);
        row_weight += __shfl_xor_sync(kWholeWarp, row_weight, 1);
        row_weight += __shfl_xor_sync(kWholeWarp, row_weight, 2);
        const bool counts = !kIsDouble || owned.has_lost == 0;
        if (threadIdx.x % 4 == 0 && counts) owned.part[threadIdx.x / kWarp % 4][row] += row_weight;
      }
      if (call.with_sums && chunk == 0 && tile < schedule.tiles_of(strip)) {
        const int each = int(schedule.tiles_each()), segment = tile / each;
        const TileRange range{strip, segment, segment * each, tile + 1};
        add_to_partial_sums(plan, p, range, tile, below, tile_points, value, T(plan.kernels));
      }
      if constexpr (kIsDouble)
        if (owned.has_lost != 0) {
          gradient.add_differences(plan, tile_points, first_feature, shared);
          continue;
        }
      gradient.add(plan, p, plan.scaling[p].precision, tile_points, first_feature, shared);
    }

    __syncthreads();
    if (threadIdx.x < kStripRows)
      owned.weight[threadIdx.x] = (owned.part[0][threadIdx.x] + owned.part[1][threadIdx.x]) +
                                  (owned.part[2][threadIdx.x] + owned.part[3][threadIdx.x]);
    __syncthreads();
    gradient.for_each([&](int row, int column, double received) {
      const int64_t from = tile_points.row[row];
      const int feature = first_feature + column;
      if (from < 0 || feature >= plan.dim) return;
      const double point = Gradient::point(plan, p, plan.scaling[p].precision, from, feature);
      store(call.gradient, call.type, from * plan.dim + feature,
            (received - owned.weight[row] * point) * owned.factor[row]);
    });
  }
}

template <class Gradient>
void launch_gradient(const Plan& plan, const GradientCall& call, Stream stream) {
  const int64_t feature_chunks = larger(1, ceil_div(plan.dim, Gradient::kFeatures));
  const int64_t most = max_strips(plan.rows_of_z, plan.problems) * feature_chunks;
  const size_t shared = region_bytes<Gradient>() + sizeof(TilePoints<typename Gradient::Gram::Value>) + sizeof(Owned);
  launch(gradient_kernel<Gradient>, dim3(unsigned(smaller(most, multiprocessors()))), dim3(kGramThreads), shared,
         stream, plan, call);
}

void launch_gradients(const Plan& plan, const Tensor& coefficients, const Tensor& gradient, bool with_sums,
                      Stream stream) {
  if (plan.problems == 0 || plan.rows_of_z == 0 || plan.dim == 0) return;
  for (int side = 0; side < (plan.symmetric ? 1 : 2); ++side) {
    const GradientCall call{coefficients.const_data_ptr<double>(), gradient.mutable_data_ptr(), gradient.scalar_type(),
                            side, with_sums};
    if (plan.type != ScalarType::Double) launch_gradient<SplitGradient>(plan, call, stream);
    launch_gradient<DoubleGradient>(plan, call, stream);
  }
}

void check_coefficients(const Tensor& coefficients, const Plan& plan, const Tensor& z, const char* name) {
  check_beside(coefficients, z, name, "z");
  check_type(coefficients, ScalarType::Double, name, "float64");
  AWPF_CHECK(
      coefficients.dim() == 3 && coefficients.size(0) == plan.problems &&
          (plan.problems == 0 || (coefficients.size(1) == plan.groups[0] && coefficients.size(2) == plan.groups[1])),
      name, " must have shape (problems, row groups, column groups)");
}

}  // namespace

Tensor rbf_sums_backward(Tensor grad, Tensor z, Tensor rows, std::optional<Tensor> columns, Tensor gamma,
                         std::optional<Tensor> centre, bool allow_fp16) {
  const DeviceScope scope(z);
  const Prepared prepared = prepare(z, rows, columns, gamma, centre, allow_fp16, false, scope.stream);
  check_coefficients(grad, prepared.plan, z, "grad");
  Tensor gradient = torch::stable::new_zeros(z, {z.size(0), z.size(1)});
  launch_gradients(prepared.plan, grad, gradient, false, scope.stream);
  return gradient;
}

std::tuple<Tensor, Tensor> rbf_sums_and_gradient(Tensor z, Tensor rows, Tensor gamma, Tensor coefficients,
                                                 bool allow_fp16) {
  const DeviceScope scope(z);
  const Prepared prepared = prepare(z, rows, std::nullopt, gamma, std::nullopt, allow_fp16, true, scope.stream);
  check_coefficients(coefficients, prepared.plan, z, "coefficients");
  const bool wide = z.scalar_type() == ScalarType::Double;
  Tensor gradient = torch::stable::new_zeros(z, {z.size(0), z.size(1)}, wide ? ScalarType::Double : ScalarType::Float);
  Tensor sums = allocate(coefficients, {rows.size(0), rows.size(1), rows.size(1)}, ScalarType::Double);
  launch_gradients(prepared.plan, coefficients, gradient, true, scope.stream);
  if (sums.numel() > 0) reduce_partial_sums(prepared.plan, sums.mutable_data_ptr<double>(), scope.stream);
  return {sums, gradient};
}

}  // namespace awpf
