// From the slots that tiles left behind to block sums: one block a sum, additions in an order that follows from the
// sizes.
#include "block.h"
#include "mmd_plan.h"

namespace awpf {
namespace {

constexpr int kReduceThreads = 128;

// The sum by differences, without any table: slow, and right even where groups share rows.
__device__ double direct_sum(const Plan& plan, int64_t p, int g, int h, double* scratch) {
  const double* gamma = plan.gamma + p * plan.kernels;
  const int64_t row_group = p * plan.groups[0] + g, column_group = p * plan.groups[1] + h;
  const int64_t rows = plan.group_length(0, row_group), columns = plan.group_length(1, column_group);
  const int64_t first_row = plan.group_begin(0, row_group), first_column = plan.group_begin(1, column_group);
  double sum = 0;
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = threadIdx.x; j < columns; j += kReduceThreads) {
      double square = 0;
      for (int k = 0; k < plan.dim; ++k) {
        const double difference = load_wide(plan.z, plan.type, (first_row + i) * plan.dim + k) -
                                  load_wide(plan.z, plan.type, (first_column + j) * plan.dim + k);
        square += difference * difference;
      }
      for (int s = 0; s < plan.kernels; ++s) sum += exp(-gamma[s] * square);
    }
  return block_sum(sum, scratch) / plan.kernels;
}

__device__ double slot_sum(const Plan& plan, int64_t p, int g, int h, double* scratch) {
  const Schedule schedule = plan.schedule(p);
  const int64_t rows = plan.group_length(0, p * plan.groups[0] + g);
  const int64_t columns = plan.group_length(1, p * plan.groups[1] + h);
  double sum = 0;
  if (rows > 0 && columns > 0) {
    const int64_t row_begin = plan.group_start(0, p, g), column_begin = plan.group_start(1, p, h);
    const int64_t first_strip = row_begin / kStripRows, strips = (row_begin + rows - 1) / kStripRows - first_strip + 1;
    const int64_t first_tile = column_begin / kTileColumns, last_tile = (column_begin + columns - 1) / kTileColumns;
    const int64_t each = schedule.tiles_each(), first_segment = first_tile / each;
    const int64_t segments = last_tile / each - first_segment + 1;
    const SlotTable table = plan.slot_table();
    for (int64_t k = threadIdx.x; k < strips * segments; k += kReduceThreads) {
      const int64_t strip = first_strip + k / segments, segment = first_segment + k % segments;
      // The first tile of the segment that meets the group must be one of the strip's.
      if (larger(first_tile, segment * each) >= schedule.tiles_of(strip)) continue;
      sum += plan.slots[table.slot(plan.start[p].strip[0], p, strip, g, segment, h)];
    }
  }
  return block_sum(sum, scratch) / plan.kernels;
}

__global__ void __launch_bounds__(kReduceThreads) reduce_kernel(Plan plan, double* sums) {
  double* scratch = shared_memory<double>();
  const int64_t cells = int64_t(plan.groups[0]) * plan.groups[1], all = plan.problems * cells;
  for (int64_t cell = blockIdx.x; cell < all; cell += gridDim.x) {
    const int64_t p = cell / cells;
    const int g = int(cell % cells / plan.groups[1]), h = int(cell % cells % plan.groups[1]);
    if (plan.symmetric && h > g) continue;
    double sum;
    if (plan.frame[p].mode == Mode::invalid) {
      sum = nan("");
    } else if (!plan.tables_hold()) {
      sum = direct_sum(plan, p, g, h, scratch);
    } else {
      sum = slot_sum(plan, p, g, h, scratch);
      // The strict lower triangle was summed; on the diagonal every kernel is 1.
      if (plan.symmetric && g == h) sum = 2 * sum + double(plan.group_length(0, p * plan.groups[0] + g));
    }
    if (threadIdx.x == 0) {
      sums[cell] = sum;
      if (plan.symmetric) sums[p * cells + int64_t(h) * plan.groups[1] + g] = sum;
    }
  }
}

}  // namespace

void reduce_slots(const Plan& plan, double* sums, Stream stream) {
  const int64_t cells = plan.problems * plan.groups[0] * plan.groups[1];
  launch(reduce_kernel, dim3(unsigned(smaller(cells, 64 * multiprocessors()))), dim3(kReduceThreads),
         kWarp * sizeof(double), stream, plan, sums);
}

}  // namespace awpf
