// Small kernels of what Hopper has beyond other GPUs, and the schedule of pairs of strips, for test_emulated_hopper.py.
#include <set>
#include <string>
#include <utility>

#include "cuda/device/hopper.h"
#include "cuda/mmd/panels.h"
#include "cuda/mmd/schedule.h"

using namespace awpf;

namespace {

constexpr int kOperandBytes = 128 * kPanelRowBytes;

struct Memory {
  unsigned char rows[kOperandBytes], columns[kOperandBytes];
  Mbarrier full, empty;
};

Memory& memory() { return *shared_memory<Memory>(); }

// Barriers for bulk copies of one thread and for an arrival of every warp.
void begin(bool ready = true) {
  if (threadIdx.x == 0) {
    mbarrier_init(&memory().full, 1);
    mbarrier_init(&memory().empty, int(blockDim.x) / kWarp);
    if (ready) mbarrier_init_fence();
  }
  __syncthreads();
}

void copy_operands(const unsigned char* a, const unsigned char* b, int expected = 2 * kOperandBytes) {
  if (threadIdx.x > 0) return;
  mbarrier_arrive_expect_tx(&memory().full, expected);
  cp_async_bulk(memory().rows, a, kOperandBytes, &memory().full);
  cp_async_bulk(memory().columns, b, kOperandBytes, &memory().full);
}

uint64_t rows_at(int k) { return matrix_descriptor(shared_address(memory().rows) + uint32_t(k) * 32); }
uint64_t columns_at(int k) { return matrix_descriptor(shared_address(memory().columns) + uint32_t(k) * 32); }

void store(const float (&c)[kWgmmaValues], float* out) {
  const int lane = int(threadIdx.x) % kWarp, warp = int(threadIdx.x) / kWarp;
  for (int v = 0; v < kWgmmaValues; ++v)
    out[(16 * warp + v / 2 % 2 * 8 + lane / 4) * 128 + v / 4 * 8 + lane % 4 * 2 + v % 2] = c[v];
}

// out (64 x 128) = a (64 x 64) b (128 x 64)', both swizzled.
void product(const unsigned char* a, const unsigned char* b, float* out) {
  begin();
  copy_operands(a, b);
  mbarrier_wait(&memory().full, 0);
  float c[kWgmmaValues] = {};
  wgmma_fence();
  for (int k = 0; k < 4; ++k) wgmma_m64n128k16(c, rows_at(k), columns_at(k), k > 0);
  wgmma_commit();
  wgmma_wait<0>(c);
  store(c, out);
}

void reads_before_the_bytes_are_here(const unsigned char* a, const unsigned char* b, float* out) {
  begin();
  copy_operands(a, b);
  float c[kWgmmaValues] = {};
  wgmma_fence();
  wgmma_m64n128k16(c, rows_at(0), columns_at(0), false);
  wgmma_commit();
  wgmma_wait<0>(c);
  store(c, out);
}

void waits_for_the_wrong_phase(const unsigned char* a, const unsigned char* b, float* out) {
  begin();
  copy_operands(a, b);
  mbarrier_wait(&memory().full, 1);
  float c[kWgmmaValues] = {};
  wgmma_fence();
  wgmma_m64n128k16(c, rows_at(0), columns_at(0), false);
  wgmma_commit();
  wgmma_wait<0>(c);
  store(c, out);
}

void reads_before_the_product_has_ended(const unsigned char* a, const unsigned char* b, float* out) {
  begin();
  copy_operands(a, b);
  mbarrier_wait(&memory().full, 0);
  float c[kWgmmaValues] = {};
  wgmma_fence();
  wgmma_m64n128k16(c, rows_at(0), columns_at(0), false);
  wgmma_commit();
  store(c, out);
  wgmma_wait<0>(c);
}

void overwrites_operands_in_use(const unsigned char* a, const unsigned char* b, float* out) {
  begin();
  copy_operands(a, b);
  mbarrier_wait(&memory().full, 0);
  float c[kWgmmaValues] = {};
  wgmma_fence();
  wgmma_m64n128k16(c, rows_at(0), columns_at(0), false);
  wgmma_commit();
  if (threadIdx.x % kWarp == 0) mbarrier_arrive(&memory().empty);
  mbarrier_wait(&memory().empty, 0);
  copy_operands(a, b);
  wgmma_wait<0>(c);
  store(c, out);
}

void expects_too_few_bytes(const unsigned char* a, const unsigned char* b, float*) {
  begin();
  copy_operands(a, b, kOperandBytes);
  mbarrier_wait(&memory().full, 0);
}

void waits_twice_for_one_phase(const unsigned char* a, const unsigned char* b, float*) {
  begin();
  copy_operands(a, b);
  mbarrier_wait(&memory().full, 0);
  mbarrier_wait(&memory().full, 1);
}

void forgets_that_barriers_must_be_ready(const unsigned char* a, const unsigned char* b, float*) {
  begin(false);
  copy_operands(a, b);
}

void copies_from_an_odd_place(const unsigned char* a, const unsigned char* b, float*) {
  begin();
  copy_operands(a + 2, b);
}

void forgets_to_begin(const unsigned char*, const unsigned char*, float*) {
  float c[kWgmmaValues] = {};
  wgmma_m64n128k16(c, rows_at(0), columns_at(0), false);
}

void warps_disagree(const unsigned char*, const unsigned char*, float*) {
  float c[kWgmmaValues] = {};
  wgmma_fence();
  wgmma_m64n128k16(c, rows_at(int(threadIdx.x) / kWarp), columns_at(0), false);
}

void reaches_beyond_shared_memory(const unsigned char*, const unsigned char*, float*) {
  float c[kWgmmaValues] = {};
  wgmma_fence();
  wgmma_m64n128k16(c, rows_at(0) + (uint64_t(1) << 13), columns_at(0), false);
  wgmma_commit();
  wgmma_wait<0>(c);
}

void takes_registers_that_nobody_gives(const unsigned char*, const unsigned char*, float*) {
  if (threadIdx.x >= kWarpgroup) setmaxnreg_inc<232>();
}

struct Kernel {
  const char* name;
  void (*run)(const unsigned char*, const unsigned char*, float*);
  int threads = kWarpgroup;
};
const Kernel kKernels[] = {
    {"product", product},
    {"reads_before_the_bytes_are_here", reads_before_the_bytes_are_here},
    {"waits_for_the_wrong_phase", waits_for_the_wrong_phase},
    {"reads_before_the_product_has_ended", reads_before_the_product_has_ended},
    {"overwrites_operands_in_use", overwrites_operands_in_use},
    {"expects_too_few_bytes", expects_too_few_bytes},
    {"waits_twice_for_one_phase", waits_twice_for_one_phase},
    {"forgets_that_barriers_must_be_ready", forgets_that_barriers_must_be_ready},
    {"copies_from_an_odd_place", copies_from_an_odd_place},
    {"forgets_to_begin", forgets_to_begin},
    {"warps_disagree", warps_disagree},
    {"reaches_beyond_shared_memory", reaches_beyond_shared_memory},
    {"takes_registers_that_nobody_gives", takes_registers_that_nobody_gives, 3 * kWarpgroup},
};

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

// What the emulator says about a kernel; empty if it said nothing. a, b: 128 x 64 halves; out: 64 x 128.
EXPORT const char* on_hopper(const char* name, const uint16_t* a, const uint16_t* b, float* out) {
  static std::string said;
  alignas(16) static unsigned char rows[kOperandBytes + 16], columns[kOperandBytes];
  for (int row = 0; row < 128; ++row)
    for (int k = 0; k < 64; ++k) {
      std::memcpy(rows + Panels::offset(row, 2 * k), a + row * 64 + k, 2);
      std::memcpy(columns + Panels::offset(row, 2 * k), b + row * 64 + k, 2);
    }
  said = "no such kernel";
  for (const Kernel& known : kKernels)
    if (std::string(known.name) == name) {
      said.clear();
      try {
        launch(known.run, dim3(1), dim3(unsigned(known.threads)), sizeof(Memory), nullptr, rows, columns, out);
      } catch (const std::exception& error) {
        said = error.what();
      }
    }
  return said.c_str();
}

// Counts tiles that ranges of pairs and of strips do not both cover once, and empty ranges of pairs.
EXPORT int64_t pair_schedule_errors(int64_t rows, int64_t columns, int symmetric) {
  const PairSchedule pairs{{rows, columns, symmetric != 0}};
  const Schedule& strips = pairs;
  std::set<std::pair<int64_t, int64_t>> covered;
  int64_t errors = 0, longest = INT64_MAX;
  for (int64_t index = 0; index < pairs.ranges(); ++index) {
    const PairRange range = pairs.range(index);
    errors +=
        range.segment >= kSegments || range.begin >= range.end || range.begin != range.segment * strips.tiles_each();
    errors += symmetric != 0 && range.pair > longest;
    longest = range.pair;
    for (int64_t tile = range.begin; tile < range.end; ++tile)
      for (int64_t strip = 2 * range.pair; strip < smaller(2 * range.pair + 2, strips.strips()); ++strip)
        errors += !covered.emplace(strip, tile).second;
  }
  for (int64_t item = 0; item < strips.items(); ++item) {
    const TileRange range = strips.range(item);
    for (int64_t tile = range.begin; tile < range.end; ++tile) errors += covered.erase({range.strip, tile}) == 0;
  }
  return errors + int64_t(covered.size());
}

// Problems with so many rows: counts panels that two of them would share, and those beyond the memory for them.
EXPORT int64_t panel_errors(const int64_t* sizes, int64_t problems) {
  int64_t strips = 0, rows = 0, end = 0, errors = 0;
  for (int64_t p = 0; p < problems; ++p) {
    const int64_t first = Panels::first(strips, p);
    errors += first < end;
    end = first + ceil_div(sizes[p], kPanelRows);
    strips += ceil_div(sizes[p], kStripRows);
    rows += sizes[p];
  }
  return errors + (end > Panels::max_panels(rows, problems));
}
