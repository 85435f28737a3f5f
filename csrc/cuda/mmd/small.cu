// Block sums of small problems, one or hundreds of them, in a single launch.
//
// What seven launches do one after the other (sums.cu), blocks do that wait for each other: a crew of blocks takes
// one problem after the other, and each is found, centred, packed, multiplied and summed before the next, while its
// points are in the second-level cache. FLOPs as there; bytes: the points once from memory. Every block finds the
// layout and the frame for itself, which is sooner done than waited for; a crew waits twice a problem, for the centre
// and for the packed points, and the last block to finish adds up. Crews are as many as problems, as long as a problem
// has work for no more blocks, and eight where it has work for all.
//
// Which problems are small is decided by their average, since the host does not know more: of a ragged batch with one
// giant among dwarfs, a crew alone computes the giant.
#include "cuda/device/device.h"
#include "cuda/mmd/crew.h"
#include "cuda/mmd/layout.h"
#include "cuda/mmd/small.h"

namespace awpf {
namespace {

constexpr int64_t kMostRows = 1024;  // pooled, of a problem on average
constexpr int64_t kMostCells = 16;   // sums of a problem: one block finds them all
constexpr int64_t kMostTableBytes = 24 << 10;
constexpr int64_t kLeastCrews = 8;  // where there are as many problems: 8 x 4 MB of points and halves stay in cache

struct Region {
  static constexpr size_t kBytes =
      SplitGram::kSharedBytes > DoubleGram::kSharedBytes ? SplitGram::kSharedBytes : DoubleGram::kSharedBytes;
};

// Shared memory of a block, beside the region that products use.
struct Scratch {
  union {
    TilePlaces<float> single;
    TilePlaces<double> wide;
  } places;
  Plan plan;  // the one given, with tables that follow: threads would keep copies of it in local memory
  double numbers[kWarp];
  int64_t counts[kWarp];
  int32_t shares, last;
  Flags flags;
};

size_t table_bytes(const Plan& plan) {
  const int sides = plan.symmetric ? 1 : 2;
  int64_t places = 0;
  for (int side = 0; side < sides; ++side) places += plan.problems * plan.groups[side] + 1;
  return size_t((plan.problems + 1) * int64_t(sizeof(ProblemStart)) + places * int64_t(sizeof(int64_t)));
}

size_t shared_bytes(const Plan& plan) { return Region::kBytes + sizeof(Scratch) + table_bytes(plan); }

// The plan with its tables in shared memory. One thread.
__device__ __forceinline__ void take_tables(const Plan& given, Scratch& scratch) {
  Plan& plan = scratch.plan;
  plan = given;
  plan.start = reinterpret_cast<ProblemStart*>(&scratch + 1);
  plan.place[0] = reinterpret_cast<int64_t*>(plan.start + plan.problems + 1);
  plan.place[1] = plan.symmetric ? plan.place[0] : plan.place[0] + plan.problems * plan.groups[0] + 1;
  plan.flags = &scratch.flags;
}

__device__ __forceinline__ void find_centre_of(const Plan& plan, int64_t p, const Crew& crew, double* shared) {
  switch (plan.type) {
    case ScalarType::Half: return find_centre<F16>(plan, p, crew, shared);
    case ScalarType::BFloat16: return find_centre<BF16>(plan, p, crew, shared);
    case ScalarType::Float: return find_centre<float>(plan, p, crew, shared);
    default: return find_centre<double>(plan, p, crew, shared);
  }
}

__device__ __forceinline__ void pack_rows_of(const Plan& plan, int64_t p, const Crew& crew, const Frame& frame) {
  switch (plan.type) {
    case ScalarType::Half: return pack_rows<F16>(plan, p, crew, frame);
    case ScalarType::BFloat16: return pack_rows<BF16>(plan, p, crew, frame);
    case ScalarType::Float: return pack_rows<float>(plan, p, crew, frame);
    default: return pack_rows<double>(plan, p, crew, frame);
  }
}

// The crew of this block, and the layout in its tables. All threads.
__device__ __forceinline__ Crew begin(const Plan& given, int crews, Scratch& scratch) {
  if (threadIdx.x == 0) take_tables(given, scratch);
  __syncthreads();
  Crew crew;
  crew.size = int(gridDim.x) / crews;
  crew.index = int(blockIdx.x) / crew.size;
  crew.rank = int(blockIdx.x) % crew.size;
  crew.arrivals = given.arrivals + crew.index;
  crew.awaited = 0;
  lay_out(scratch.plan, scratch.counts);
  __syncthreads();
  return crew;
}

// From a problem's points to its frame and its packed rows, unless its sums are to be found `directly`. All threads of
// the crew; another barrier of the crew has to follow.
__device__ __forceinline__ Frame prepare_problem(const Plan& plan, int64_t p, Crew& crew, Scratch& scratch,
                                                 void* shared, bool directly) {
  // By the block that is first out of work.
  if (crew.rank == crew.size - 1 && threadIdx.x == 0)
    order_kernels(plan.gamma + p * plan.kernels, plan.kernels, plan.steps + p * plan.kernels, plan.begun[p]);
  if (!directly) find_centre_of(plan, p, crew, static_cast<double*>(shared));
  if (p == crew.index) {
    if (crew.rank == 0 && threadIdx.x == 0) *crew.arrivals = 0;
    grid_barrier();
  } else {
    crew.barrier();
  }
  Frame frame = plan.begun[p];
  if (!directly) {
    frame = find_frame(plan, p, scratch.numbers);
    if (frame.mode != Mode::invalid) pack_rows_of(plan, p, crew, frame);
  }
  if (crew.rank == 0 && threadIdx.x == 0) plan.frame[p] = frame;
  return frame;
}

__device__ __forceinline__ bool to_be_found_directly(const Plan& plan, int64_t p, Scratch& scratch) {
  return plan.flags->crowded != 0 || (plan.problems > 1 && shares_rows(plan, p, &scratch.shares));
}

// Which blocks of a crew have done their part of a problem.
__device__ __forceinline__ uint32_t* finished(const Plan& plan, int64_t p) { return plan.arrivals + plan.problems + p; }

__global__ void __launch_bounds__(kCrewThreads, 1) sums_kernel(Plan given, int crews, double* sums, Values values) {
  char* const shared = shared_memory<char>();
  Scratch& scratch = *reinterpret_cast<Scratch*>(shared + Region::kBytes);
  const Plan& plan = scratch.plan;
  Crew crew = begin(given, crews, scratch);
  for (int64_t p = crew.index; p < plan.problems; p += crews) {
    const bool directly = to_be_found_directly(plan, p, scratch);
    if (crew.rank == 0 && threadIdx.x == 0) *finished(plan, p) = 0;
    const Mode mode = prepare_problem(plan, p, crew, scratch, shared, directly).mode;
    crew.barrier();
    if (!directly && SplitGram::computes(mode))
      sum_runs<SplitGram>(plan, p, crew, scratch.places.single, shared);
    else if (!directly && DoubleGram::computes(mode))
      sum_runs<DoubleGram>(plan, p, crew, scratch.places.wide, shared);

    __syncthreads();
    if (threadIdx.x == 0) scratch.last = arrive(finished(plan, p)) + 1 == uint32_t(crew.size);
    __syncthreads();
    if (scratch.last == 0) continue;
    const int cells = plan.groups[0] * plan.groups[1];
    for (int cell = 0; cell < cells; ++cell) {
      const int g = cell / plan.groups[1], h = cell % plan.groups[1];
      if (plan.symmetric && h > g) continue;
      const double sum = cell_sum(plan, p, g, h, directly, scratch.numbers);
      if (threadIdx.x > 0) continue;
      sums[p * cells + cell] = sum;
      if (plan.symmetric) sums[p * cells + h * plan.groups[1] + g] = sum;
    }
    if (values.out != nullptr && threadIdx.x < kWarp) write_value(values, p, sums, cells);
  }
}

// What fill_tables does in four launches.
__global__ void __launch_bounds__(kCrewThreads, 1) tables_kernel(Plan given, int crews) {
  char* const shared = shared_memory<char>();
  Scratch& scratch = *reinterpret_cast<Scratch*>(shared + Region::kBytes);
  const Plan& plan = scratch.plan;
  Crew crew = begin(given, crews, scratch);
  if (blockIdx.x == 0) {
    for (int64_t p = threadIdx.x; p <= plan.problems; p += kCrewThreads) given.start[p] = plan.start[p];
    for (int side = 0; side < (plan.symmetric ? 1 : 2); ++side)
      for (int64_t k = threadIdx.x; k <= plan.problems * plan.groups[side]; k += kCrewThreads)
        given.place[side][k] = plan.place[side][k];
    if (threadIdx.x == 0) *given.flags = *plan.flags;
  }
  for (int64_t p = crew.index; p < plan.problems; p += crews) {
    const bool directly = to_be_found_directly(plan, p, scratch);
    prepare_problem(plan, p, crew, scratch, shared, directly);  // waits for the flags
    if (directly && crew.rank == 0 && threadIdx.x == 0) given.flags->shared = 1;
    __syncthreads();
  }
}

}  // namespace

Crews small_crews(const Plan& plan) {
  const int64_t problems = plan.problems, cells = int64_t(plan.groups[0]) * plan.groups[1];
  if (problems == 0 || plan.rows_of_z > kMostRows * problems || cells == 0 || cells > kMostCells) return {0, 0};
  if (table_bytes(plan) > size_t(kMostTableBytes)) return {0, 0};
  const size_t shared = shared_bytes(plan);
  const int64_t blocks = smaller(resident_blocks(reinterpret_cast<const void*>(sums_kernel), kCrewThreads, shared),
                                 resident_blocks(reinterpret_cast<const void*>(tables_kernel), kCrewThreads, shared));
  if (blocks == 0) return {0, 0};
  const Schedule average{pieces(plan.rows_of_z, problems), pieces(plan.rows_of_z, problems), plan.symmetric};
  int64_t work = 0;
  for (int64_t strip = 0; strip < average.strips(); ++strip) work += average.tiles_of(strip);
  work = larger(work, 1);
  // As few rounds as may be, and all rounds full.
  const int64_t most = smaller(blocks, larger(kLeastCrews, blocks / work));
  const int64_t rounds = pieces(problems, most), crews = pieces(problems, rounds);
  return {int(crews), int(smaller(blocks / crews, work))};
}

void sum_small(const Plan& plan, const Crews& crews, double* sums, const Values& values, Stream stream) {
  launch_cooperative(sums_kernel, dim3(unsigned(crews.count * crews.size)), dim3(kCrewThreads), shared_bytes(plan),
                     stream, plan, crews.count, sums, values);
}

void fill_small_tables(const Plan& plan, const Crews& crews, Stream stream) {
  launch_cooperative(tables_kernel, dim3(unsigned(crews.count * crews.size)), dim3(kCrewThreads), shared_bytes(plan),
                     stream, plan, crews.count);
}

}  // namespace awpf
