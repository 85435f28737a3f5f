// A matrix of points in any of the supported element types.
#pragma once

#include "common/checks.h"
#include "cpu/kernel_table.h"

namespace awpf {

struct Points {
  const char* data;
  ElementType type;
  int64_t element_bytes, rows, dim;

  const void* row(int64_t i) const { return data + i * dim * element_bytes; }
};

Points as_points(const Tensor& z);

}  // namespace awpf
