// Checks the arguments of rbf_weighted_sums, on every device, and gives the type of its values.
#pragma once

#include "common/checks.h"

namespace awpf {

inline void check_weights(const Tensor& coefficients, const Tensor& constant, const Tensor& z, const Tensor& rows) {
  check_beside(coefficients, z, "coefficients", "z");
  check_beside(constant, z, "constant", "z");
  check_type(coefficients, ScalarType::Double, "coefficients", "float64");
  check_type(constant, ScalarType::Double, "constant", "float64");
  AWPF_CHECK(rows.dim() == 3 && coefficients.dim() == 3 && coefficients.size(0) == rows.size(0) &&
                 coefficients.size(1) == rows.size(1) && coefficients.size(2) == rows.size(1),
             "coefficients must have shape (problems, groups, groups)");
  AWPF_CHECK(constant.dim() == 1 && constant.size(0) == rows.size(0), "constant must have shape (problems,)");
}

inline ScalarType value_type(const Tensor& z) {
  return z.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

}  // namespace awpf
