// Compiled once for each instruction set, with AWPF_ISA its name: fills the table of that set.
#include "cpu/kernel_table.h"

namespace {
using awpf::Cell;
using awpf::ElementType;
using awpf::GramBlock;
using awpf::Keep;
using awpf::LostDistances;
using awpf::MixtureView;
using awpf::Operand;
using awpf::ShuffleKey;
}  // namespace

#include "cpu/elements.h"
#include "cpu/gemm.h"
#include "cpu/rbf.h"
#if defined(AWPF_TILES)
#include "cpu/tile_gemm.h"
#endif

#define AWPF_CONCAT_(a, b) a##b
#define AWPF_CONCAT(a, b) AWPF_CONCAT_(a, b)
#define AWPF_STRING_(a) #a
#define AWPF_STRING(a) AWPF_STRING_(a)

namespace awpf {
namespace {

template <class T>
constexpr TypedKernels<T> typed_kernels() {
  return {
      kRows,
      kColumns<T>,
      1,
      &strip_size<T>,
      &pack_rows<kRows, T>,
      &pack_rows<kColumns<T>, T>,
      &pack_columns<kRows, T>,
      &pack_columns<kColumns<T>, T>,
      &multiply<T>,
      &centre_rows<T>,
      &rbf_sum<T, T>,
      &rbf_values<T, T>,
      &rbf_sum<T, double>,
      &rbf_values<T, double>,
      &widen_bytes<T>,
      &centre_by_label<T>,
      &scale_rows<T>,
      &store_row<T>,
      &add_block<T>,
  };
}

#if defined(AWPF_TILES)
constexpr TypedKernels<float> float_kernels() {
  TypedKernels<float> kernels = typed_kernels<float>();
  kernels.tile_rows = kernels.tile_columns = kStripRows;
  kernels.depth_step = kStep;
  kernels.strip_size = &tile_strip_size;
  kernels.pack_rows_a = &pack_tiles<Operand::a, true>;
  kernels.pack_rows_b = &pack_tiles<Operand::b, true>;
  kernels.pack_columns_a = &pack_tiles<Operand::a, false>;
  kernels.pack_columns_b = &pack_tiles<Operand::b, false>;
  kernels.multiply = &multiply_by_tiles;
  kernels.centre_rows = &centre_rows_for_tiles;
  return kernels;
}
constexpr auto kIsExact = &tiles_are_exact;
#else
constexpr TypedKernels<float> float_kernels() { return typed_kernels<float>(); }
constexpr bool (*kIsExact)() = nullptr;
#endif

constexpr TypedKernels<float> kFloat = float_kernels();
constexpr TypedKernels<double> kDouble = typed_kernels<double>();

}  // namespace

extern const KernelTable AWPF_CONCAT(kKernelTable_, AWPF_ISA) = {
    AWPF_STRING(AWPF_ISA), &kFloat,   &kDouble,           &narrow_row,        &shuffle_values,
    &add_rows_by_label,    &add_rows, &squared_distances, &square_difference, &add_difference,
    &lost_columns,         kIsExact};

}  // namespace awpf
