// Checks the arguments of scatter and allocates its results, on every device.
#pragma once

#include <algorithm>

#include "common/allocate.h"
#include "common/checks.h"

namespace awpf {

struct ScatterShape {
  int64_t batch, rows, dim, classes;
};

inline ScatterShape check_scatter(const Tensor& x, const Tensor& labels, int64_t num_classes) {
  AWPF_CHECK(x.dim() == 3 && labels.dim() == 2 && labels.size(0) == x.size(0) && labels.size(1) == x.size(1),
             "x must have shape (batch, n, d) and labels (batch, n)");
  AWPF_CHECK(x.size(2) >= 1, "x must have at least one feature");
  // A wrong number of classes is refused before its means take the memory; Python has the same bounds.
  const int64_t most = std::max(int64_t(1) << 24, x.size(1));
  AWPF_CHECK(num_classes >= 1 && num_classes <= most, "num_classes must be from 1 to ", most, ", got ", num_classes);
  int64_t means = 0;
  const bool overflows =
      __builtin_mul_overflow(x.size(2), num_classes, &means) || __builtin_mul_overflow(x.size(0), means, &means);
  AWPF_CHECK(num_classes <= std::max<int64_t>(x.size(1), 1) || (!overflows && means <= int64_t(1) << 30),
             "num_classes is too large: the class means would hold ", x.size(0), " x ", num_classes, " x ", x.size(2),
             " numbers, more than 2^30");
  check_beside(x, x, "x", "x");
  check_beside(labels, x, "labels", "x");
  check_type(labels, ScalarType::Long, "labels", "int64");
  return {x.size(0), x.size(1), x.size(2), num_classes};
}

struct ScatterResult {
  Tensor within, between, means, counts;

  ScatterResult(const Tensor& x, const ScatterShape& s)
      : within(allocate(x, {s.batch, s.dim, s.dim}, ScalarType::Double)),
        between(allocate(x, {s.batch, s.dim, s.dim}, ScalarType::Double)),
        means(allocate(x, {s.batch, s.classes, s.dim}, ScalarType::Double)),
        counts(allocate(x, {s.batch, s.classes}, ScalarType::Long)) {}
};

}  // namespace awpf
