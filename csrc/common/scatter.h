// Checks the arguments of scatter and allocates its results, on every device.
#pragma once

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
  constexpr int64_t kMost = int64_t(1) << 30;
  AWPF_CHECK(num_classes >= 1 && num_classes < kMost, "num_classes must be from 1 to 2^30 - 1, got ", num_classes);
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
