// Checks the arguments of an MMD call and takes memory for its tables, by what the host knows: shapes alone.
#include "cuda/device/device.h"
#include "cuda/mmd/plan.h"

namespace awpf {
namespace {

void check_ranges(const Tensor& ranges, const Tensor& z, const char* name) {
  check_beside(ranges, z, name, "z");
  check_type(ranges, ScalarType::Long, name, "int64");
  AWPF_CHECK(ranges.dim() == 3 && ranges.size(2) == 2, name, " must have shape (problems, groups, 2)");
}

void allocate_plan(Plan& plan, Arena& arena, bool with_partial_sums, Route route) {
  const int64_t strips = max_strips(plan.rows_of_z, plan.problems);
  allocate_layout(plan, arena);
  plan.steps = arena.take<KernelStep>(plan.problems * plan.kernels);
  plan.scaling = arena.take<Scaling>(plan.problems);
  plan.centre = arena.take<double>(plan.problems * plan.dim);
  plan.half_norm = arena.take<double>(plan.rows_of_z);
  if (route == Route::panels) {
    const int64_t panels = plan.sides() * Panels::max_panels(plan.rows_of_z, plan.problems);
    plan.panels = arena.take<unsigned char>(Panels(plan.dim).bytes(panels));
  } else if (plan.type != ScalarType::Double) {
    plan.hi = arena.take<uint16_t>(plan.rows_of_z * plan.pitch);
    plan.lo = arena.take<uint16_t>(plan.rows_of_z * plan.pitch);
  }
  if (with_partial_sums) {
    const PartialSums layout{plan.groups[0], plan.groups[1]};
    plan.partial_sums = arena.take<double>((strips + plan.problems * plan.groups[0]) * layout.width());
  }
}

void allocate_preparation(PreparationBuffers& buffers, const Plan& plan, Arena& arena) {
  const int64_t strips = plan.sides() * max_strips(plan.rows_of_z, plan.problems);
  buffers.strip_sums = arena.take<double>(strips * plan.dim);
  buffers.strip_squares = arena.take<double>(strips);
  buffers.owner = arena.take<int32_t>(plan.rows_of_z);
}

void allocate_small(SmallBuffers& buffers, const Plan& plan, Arena& arena) {
  buffers.moments = arena.take<FeatureMoments>(plan.problems * ceil_div(plan.dim, kMomentFeatures));
  buffers.initial_scaling = arena.take<Scaling>(plan.problems);
  buffers.arrivals = arena.take<uint32_t>(2 * plan.problems);
}

}  // namespace

ProblemLayout check_problems(const Tensor& z, const Tensor& rows, const std::optional<Tensor>& columns) {
  check_beside(z, z, "z", "z");
  AWPF_CHECK(z.dim() == 2 && z.size(1) >= 1, "z must have two dimensions, and at least one feature");
  with_element_type(z, "z", [](auto) {});
  check_ranges(rows, z, "rows");
  if (columns.has_value()) {
    check_ranges(*columns, z, "columns");
    AWPF_CHECK(columns->size(0) == rows.size(0), "columns must have as many problems as rows");
  }
  const int64_t row_groups = rows.size(1), column_groups = columns.has_value() ? columns->size(1) : row_groups;
  constexpr int64_t kLimit = int64_t(1) << 30;
  AWPF_CHECK(z.size(1) < kLimit && row_groups < kLimit && column_groups < kLimit && rows.size(0) < kLimit,
             "at most 2^30 features, groups and problems");
  ProblemLayout layout{};
  layout.z = z.const_data_ptr();
  layout.type = z.scalar_type();
  layout.rows_of_z = z.size(0);
  layout.problems = rows.size(0);
  layout.dim = int(z.size(1));
  layout.groups[0] = int(row_groups);
  layout.groups[1] = int(column_groups);
  layout.symmetric = !columns.has_value();
  layout.ranges[0] = rows.const_data_ptr<int64_t>();
  layout.ranges[1] = columns.has_value() ? columns->const_data_ptr<int64_t>() : layout.ranges[0];
  return layout;
}

void allocate_layout(ProblemLayout& layout, Arena& arena) {
  for (int side = 0; side < layout.sides(); ++side)
    layout.group_offsets[side] = arena.take<int64_t>(layout.problems * layout.groups[side] + 1);
  if (layout.symmetric) layout.group_offsets[1] = layout.group_offsets[0];
  layout.start = arena.take<ProblemStart>(layout.problems + 1);
  layout.flags = arena.take<Flags>(1);
}

Prepared plan_for(const ProblemLayout& layout, const Tensor& z, const Tensor& gamma,
                  const std::optional<Tensor>& centre, bool allow_fp16, bool with_partial_sums, Route route) {
  check_beside(gamma, z, "gamma", "z");
  check_type(gamma, ScalarType::Double, "gamma", "float64");
  AWPF_CHECK(gamma.dim() == 2 && gamma.size(0) == layout.problems, "gamma must have shape (problems, kernels)");
  AWPF_CHECK(gamma.size(1) > 0, "bandwidth: at least one kernel is needed");
  if (centre.has_value()) {
    check_beside(*centre, z, "centre", "z");
    check_type(*centre, ScalarType::Double, "centre", "float64");
    AWPF_CHECK(centre->dim() == 2 && centre->size(0) == layout.problems && centre->size(1) == layout.dim,
               "centre must have shape (problems, d)");
  }
  AWPF_CHECK(gamma.size(1) < int64_t(1) << 30, "at most 2^30 kernels");
  Prepared prepared{};
  Plan& plan = prepared.plan;
  static_cast<ProblemLayout&>(plan) = layout;
  plan.kernels = int(gamma.size(1));
  plan.allow_fp16 = allow_fp16;
  plan.gamma = gamma.const_data_ptr<double>();
  plan.given_centre = centre.has_value() ? centre->const_data_ptr<double>() : nullptr;
  plan.pitch = round_up(plan.dim, kPackedSlab);
  prepared.memory = allocate_arena(z, [&](Arena& arena) {
    allocate_plan(plan, arena, with_partial_sums, route);
    if (route == Route::one_launch)
      allocate_small(prepared.small, plan, arena);
    else
      allocate_preparation(prepared.preparation, plan, arena);
  });
  return prepared;
}

}  // namespace awpf
