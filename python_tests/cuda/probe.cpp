// Small kernels and loops over host code that test_emulator.py calls through ctypes.
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "common/kernel_mixture.h"
#include "cuda/device/simt.h"
#include "cuda/mmd/scaling.h"
#include "cuda/mmd/schedule.h"

using namespace awpf;

namespace {

void matrix_product(const uint16_t* a, const uint16_t* b, float* c, bool bfloat, bool transposed) {
  uint16_t* shared = shared_memory<uint16_t>();
  const int lane = threadIdx.x;
  cp_async_16(shared + 8 * lane, a + 8 * lane, true);
  cp_async_16(shared + 256 + 8 * lane, b + 8 * lane, true);
  cp_async_commit();
  cp_async_wait<0>();
  __syncthreads();
  uint32_t left[4], right[4];
  ldmatrix_x4(left, shared + lane % 16 * 16 + lane / 16 * 8);
  // b: (column, depth), or (depth, column) where transposed.
  if (transposed)
    ldmatrix_x4_trans(right, shared + 256 + lane % 16 * 16 + lane / 16 * 8);
  else
    ldmatrix_x4(right, shared + 256 + (lane % 8 + lane / 16 * 8) * 16 + lane / 8 % 2 * 8);
  for (int half = 0; half < 2; ++half) {
    float sum[4] = {};
    if (bfloat)
      mma_bf16(sum, left, right[2 * half], right[2 * half + 1]);
    else
      mma_f16(sum, left, right[2 * half], right[2 * half + 1]);
    for (int e = 0; e < 4; ++e) c[(lane / 4 + e / 2 * 8) * 16 + half * 8 + lane % 4 * 2 + e % 2] = sum[e];
  }
}

void double_product(const double* a, const double* b, double* c) {
  const int lane = threadIdx.x;
  double sum[2] = {0, 0};
  mma_f64(sum, a[lane], b[lane % 4 * 8 + lane / 4]);
  for (int e = 0; e < 2; ++e) c[lane / 4 * 8 + lane % 4 * 2 + e] = sum[e];
}

void some_never_arrive(float*) {
  if (threadIdx.x < 32) __syncthreads();
}

void lanes_disagree(float* out) {
  if (threadIdx.x % 2 == 0)
    out[0] = __shfl_xor_sync(0xffffffffu, 1.0f, 2);
  else
    out[0] = __shfl_xor_sync(0xffffffffu, 1.0f, 1);
}

void writes_beyond(float*) { shared_memory<float>()[64 + threadIdx.x] = 1; }

void copies_to_nowhere(float* out) { cp_async_16(shared_memory<float>() + 64, out, false); }

void reads_what_nobody_wrote(float* out) { out[threadIdx.x] = shared_memory<float>()[threadIdx.x]; }

// The copy is not waited for.
void reads_too_early(float* out) {
  float* shared = shared_memory<float>();
  if (threadIdx.x == 0) {
    cp_async_16(shared, out, true);
    cp_async_commit();
    out[63] = shared[0];
  }
}

// No barrier between the write and the neighbour's read.
void races(float* out) {
  float* shared = shared_memory<float>();
  shared[threadIdx.x] = float(threadIdx.x);
  out[threadIdx.x] = shared[(threadIdx.x + 1) % 64];
}

// Blocks wait for each other without being sure to run at once.
void waits_for_another_block(float*) { grid_barrier(); }

// The first block does not come.
void a_block_never_arrives(float*) {
  if (blockIdx.x > 0) grid_barrier();
}

void counts_too_few(float* out) {
  uint32_t* counter = reinterpret_cast<uint32_t*>(out);
  if (threadIdx.x == 0) {
    arrive(counter);
    wait_for_arrivals(counter, gridDim.x + 1);
  }
}

// Every block writes, all wait, every block reads what its neighbour wrote.
void meets(float* out) {
  uint32_t* counter = reinterpret_cast<uint32_t*>(out);
  if (threadIdx.x == 0) out[1 + blockIdx.x] = float(blockIdx.x);
  grid_barrier();
  const float before = out[1 + (blockIdx.x + 1) % gridDim.x];
  grid_barrier();
  if (threadIdx.x == 0) {
    out[1 + blockIdx.x] = before + 10;
    arrive(counter);
    wait_for_arrivals(counter, gridDim.x);
    out[8 + blockIdx.x] = out[1 + (blockIdx.x + 1) % gridDim.x];
  }
}

struct Mistake {
  const char* name;
  void (*kernel)(float*);
  int cooperative_blocks = 0;
};
const Mistake kMistakes[] = {
    {"some_never_arrive", some_never_arrive},
    {"lanes_disagree", lanes_disagree},
    {"writes_beyond", writes_beyond},
    {"copies_to_nowhere", copies_to_nowhere},
    {"reads_what_nobody_wrote", reads_what_nobody_wrote},
    {"reads_too_early", reads_too_early},
    {"races", races},
    {"waits_for_another_block", waits_for_another_block},
    {"a_block_never_arrives", a_block_never_arrives, 3},
    {"counts_too_few", counts_too_few, 3},
    {"more_than_run_at_once", waits_for_another_block, 7},
    {"meets", meets, 4},
};

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT void product_16(const uint16_t* a, const uint16_t* b, float* c, int bfloat, int transposed) {
  launch(matrix_product, dim3(1), dim3(32), 1024, nullptr, a, b, c, bfloat != 0, transposed != 0);
}

EXPORT void product_64(const double* a, const double* b, double* c) {
  launch(double_product, dim3(1), dim3(32), 0, nullptr, a, b, c);
}

EXPORT void to_half(const float* from, uint16_t* half, uint16_t* bfloat, int64_t count) {
  for (int64_t k = 0; k < count; ++k) {
    half[k] = half_bits(from[k]);
    bfloat[k] = bfloat16_bits(from[k]);
  }
}

EXPORT void from_half(const uint16_t* from, float* half, float* bfloat, int64_t count) {
  for (int64_t k = 0; k < count; ++k) {
    half[k] = half_value(from[k]);
    bfloat[k] = bfloat16_value(from[k]);
  }
}

// What the emulator says about a kernel with a mistake; empty if it said nothing. `out`: 64 numbers.
EXPORT const char* mistake(const char* name, float* out) {
  static std::string said;
  said = "no such kernel";
  for (const Mistake& known : kMistakes)
    if (std::string(known.name) == name) {
      said.clear();
      try {
        if (known.cooperative_blocks > 0)
          launch_cooperative(known.kernel, dim3(unsigned(known.cooperative_blocks)), dim3(64), 64 * sizeof(float),
                             nullptr, out);
        else
          launch(known.kernel, dim3(1), dim3(64), 64 * sizeof(float), nullptr, out);
      } catch (const std::exception& error) {
        said = error.what();
      }
    }
  return said.c_str();
}

// Counts tiles that ranges should cover once but do not, and others that they cover.
EXPORT int64_t schedule_errors(int64_t rows, int64_t columns, int symmetric) {
  const Schedule schedule{rows, columns, symmetric != 0};
  std::set<std::pair<int64_t, int64_t>> covered;
  int64_t errors = 0;
  for (int64_t item = 0; item < schedule.items(); ++item) {
    const TileRange range = schedule.range(item);
    errors += range.segment >= kSegments;
    for (int64_t tile = range.begin; tile < range.end; ++tile) errors += !covered.emplace(range.strip, tile).second;
  }
  for (int64_t strip = 0; strip * kStripRows < rows; ++strip)
    for (int64_t tile = 0; tile * kTileColumns < columns; ++tile) {
      const int64_t last_row = smaller((strip + 1) * kStripRows, rows) - 1;
      const bool needed = symmetric == 0 || tile * kTileColumns < last_row;
      if (needed) errors += covered.count({strip, tile}) == 0;
      covered.erase({strip, tile});
    }
  return errors + int64_t(covered.size());
}

// Problems of a few groups each (sizes: problems x groups): counts partial sums that two items would share, and those
// beyond the table.
EXPORT int64_t partial_sum_errors(const int64_t* sizes, int64_t problems, int64_t groups) {
  const PartialSums table{groups, groups};
  std::set<int64_t> taken;
  int64_t errors = 0, strips = 0, rows_of_z = 0;
  for (int64_t p = 0; p < problems; ++p) {
    std::vector<int64_t> group;
    for (int64_t g = 0; g < groups; ++g) group.insert(group.end(), sizes[p * groups + g], g);
    const int64_t rows = int64_t(group.size());
    const Schedule schedule{rows, rows, true};
    std::set<std::tuple<int64_t, int64_t, int64_t, int64_t>> sums;
    for (int64_t item = 0; item < schedule.items(); ++item) {
      const TileRange range = schedule.range(item);
      for (int64_t tile = range.begin; tile < range.end; ++tile)
        for (int64_t i = range.strip * kStripRows; i < smaller((range.strip + 1) * kStripRows, rows); ++i)
          for (int64_t j = tile * kTileColumns; j < smaller((tile + 1) * kTileColumns, rows); ++j)
            sums.emplace(range.strip, group[i], range.segment, group[j]);
    }
    for (const auto& [strip, g, segment, h] : sums)
      errors += !taken.insert(table.index(strips, p, strip, g, segment, h)).second;
    strips += schedule.strips();
    rows_of_z += rows;
  }
  const int64_t room = (max_strips(rows_of_z, problems) + problems * groups) * table.width();
  return errors + (strips > max_strips(rows_of_z, problems)) + (!taken.empty() && *taken.rbegin() >= room);
}

EXPORT double scale_for(double mean_square, int64_t rows) { return packing_scale(mean_square, rows); }

EXPORT int steps_for(const double* gamma, int count, double* rate, double* weight, int* squarings) {
  std::vector<KernelStep> steps(count);
  const double sum = sort_exponents(gamma, count, steps.data());
  const bool valid = fill_kernel_steps(steps.data(), count, sum);
  for (int s = 0; s < count; ++s) {
    rate[s] = steps[s].rate;
    weight[s] = steps[s].weight;
    squarings[s] = steps[s].squarings;
  }
  return valid;
}
