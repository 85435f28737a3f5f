// Checks the arguments of an MMD call and finds room for its tables: what the host knows, which is shapes alone.
#include "cuda/device/device.h"
#include "cuda/mmd/plan.h"

namespace awpf {
namespace {

void check_ranges(const Tensor& ranges, const Tensor& z, const char* name) {
  check_beside(ranges, z, name, "z");
  check_type(ranges, ScalarType::Long, name, "int64");
  AWPF_CHECK(ranges.dim() == 3 && ranges.size(2) == 2, name, " must have shape (problems, groups, 2)");
}

void carve(Plan& plan, Carver& carver, bool with_slots, Packing packing) {
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
  const bool in_panels = packing == Packing::panels;
  const int64_t packed = plan.type == ScalarType::Double || in_panels ? 0 : plan.rows_of_z * plan.pitch;
  plan.hi = carver.take<uint16_t>(packed);
  plan.lo = carver.take<uint16_t>(packed);
  const int64_t panels = sides * Panels::most(plan.rows_of_z, plan.problems);
  plan.panels = in_panels ? carver.take<unsigned char>(Panels(plan.dim).bytes(panels)) : nullptr;
  plan.spread = carver.take<Spread>(plan.problems * plan.chunks());
  plan.begun = carver.take<Frame>(plan.problems);
  plan.arrivals = carver.take<uint32_t>(2 * plan.problems);
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

Prepared plan_for(const Tensor& z, const Tensor& rows, const std::optional<Tensor>& columns, const Tensor& gamma,
                  const std::optional<Tensor>& centre, bool one_product, bool with_slots, Packing packing) {
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
  plan.one_product = one_product;
  plan.gamma = gamma.const_data_ptr<double>();
  plan.given_centre = centre.has_value() ? centre->const_data_ptr<double>() : nullptr;
  Carver counter{nullptr};
  carve(plan, counter, with_slots, packing);
  Tensor memory = new_memory(z, counter.used);
  Carver carver{static_cast<char*>(memory.mutable_data_ptr())};
  carve(plan, carver, with_slots, packing);
  return {plan, memory};
}

}  // namespace awpf
