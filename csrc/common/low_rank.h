// Checks the arguments of low_rank_sum, on every device.
#pragma once

#include <optional>

#include "common/checks.h"

namespace awpf {

struct LowRankShape {
  int64_t batch, terms, rows, columns, rank;

  int64_t depth() const { return terms * rank; }
  bool empty() const { return batch == 0 || rows == 0 || columns == 0; }
};

inline LowRankShape check_low_rank(const Tensor& u, const Tensor& v, const Tensor& coefficients,
                                   const std::optional<Tensor>& base) {
  AWPF_CHECK(u.dim() == 4 && v.dim() == 4 && u.size(0) == v.size(0) && u.size(1) == v.size(1) && u.size(3) == v.size(3),
             "u and v must have shapes (batch, terms, m, rank) and (batch, terms, n, rank)");
  AWPF_CHECK(u.scalar_type() == v.scalar_type(), "u and v must have the same type");
  const LowRankShape shape{u.size(0), u.size(1), u.size(2), v.size(2), u.size(3)};
  check_beside(u, u, "u", "u");
  check_beside(v, u, "v", "u");
  check_beside(coefficients, u, "coefficients", "u");
  check_type(coefficients, ScalarType::Double, "coefficients", "float64");
  AWPF_CHECK(coefficients.dim() == 3 && coefficients.size(0) == shape.batch && coefficients.size(1) == shape.terms &&
                 coefficients.size(2) == shape.rank,
             "coefficients must have shape (batch, terms, rank)");
  if (base.has_value()) {
    AWPF_CHECK(base->dim() == 3 && base->size(0) == shape.batch && base->size(1) == shape.rows &&
                   base->size(2) == shape.columns && base->scalar_type() == u.scalar_type(),
               "base must have shape (batch, m, n) and the type of u");
    check_beside(*base, u, "base", "u");
  }
  return shape;
}

}  // namespace awpf
