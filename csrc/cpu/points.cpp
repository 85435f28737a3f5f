#include "cpu/points.h"

namespace awpf {

Points as_points(const Tensor& z) {
  check_cpu_contiguous(z, "z");
  AWPF_CHECK(z.dim() == 2, "z must have two dimensions");
  Points points{static_cast<const char*>(z.const_data_ptr()), ElementType::f32, 4, z.size(0), z.size(1)};
  switch (z.scalar_type()) {
    case ScalarType::Half: points.type = ElementType::f16, points.element_bytes = 2; break;
    case ScalarType::BFloat16: points.type = ElementType::bf16, points.element_bytes = 2; break;
    case ScalarType::Float: break;
    case ScalarType::Double: points.type = ElementType::f64, points.element_bytes = 8; break;
    default: AWPF_CHECK(false, "z must be float16, bfloat16, float32 or float64");
  }
  return points;
}

}  // namespace awpf
