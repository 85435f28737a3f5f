// W = W_0 + sum_t U_t diag(c_t) V_t', for a batch.
//
// One product of depth K = sum_t r_t. FLOPs: 2 m n K. Memory traffic: (m + n) K + m n numbers. The product of a single
// term is never stored. Trick: the terms are consecutive parts of the depth, and U is multiplied with c while it is
// packed.
#include "common/low_rank.h"

#include <algorithm>

#include "common/allocate.h"
#include "common/ops.h"
#include "cpu/parallel.h"
#include "cpu/points.h"
#include "cpu/tiling.h"

namespace awpf {
namespace {

// Packs the rows [begin, end) of U or V: the depth is that of all terms, one after the other.
template <class T>
void pack_side(const char* from, ElementType type, int64_t element_bytes, int64_t rows, const LowRankShape& shape,
               const T* coefficients, int64_t begin, int64_t end, T* scratch, const StripLayout<T>& layout, T* to) {
  const int64_t total = shape.depth();
  for (int64_t t = 0; t < shape.terms; ++t)
    kernels<T>().scale_rows(scratch + t * shape.rank, total, from + (t * rows + begin) * shape.rank * element_bytes,
                            type, shape.rank, end - begin, shape.rank,
                            coefficients == nullptr ? nullptr : coefficients + t * shape.rank);
  layout.pack_rows(to, begin, scratch, total, end - begin);
}

template <class T>
void low_rank_product(const Points& u, const Points& v, const Points* base, const double* coefficients,
                      const LowRankShape& shape, char* out) {
  const int64_t batch = shape.batch;
  const auto& table = kernels<T>();
  const DepthBlocks depth = depth_blocks<T>(shape.depth());
  const int64_t total = shape.depth(), chunk = packing_chunk<T>();
  const StripLayout<T> layout_a(Operand::a, shape.rows, depth), layout_b(Operand::b, shape.columns, depth);
  // Only a few matrices are packed at a time, so that the packed factors stay in cache.
  const int64_t bytes_each = (layout_a.size() + layout_b.size()) * int64_t(sizeof(T));
  const int64_t at_once = std::min(batch, std::max<int64_t>(4, (int64_t(32) << 20) / std::max<int64_t>(1, bytes_each)));
  Buffer<T> factor(batch * total);
  for (int64_t k = 0; k < batch * total; ++k) factor[k] = T(coefficients[k]);
  Buffer<T> a(at_once * layout_a.size()), b(at_once * layout_b.size());
  const int64_t row_chunks = ceil_div(shape.rows, chunk), column_chunks = ceil_div(shape.columns, chunk);
  const int64_t row_blocks = ceil_div(shape.rows, block_rows<T>());
  const int64_t column_blocks = ceil_div(shape.columns, block_columns<T>());
  const int64_t area = block_rows<T>() * block_stride<T>();
  Buffer<T> scratch(workers_for(at_once * (row_chunks + column_chunks)) * chunk * total);
  Buffer<T> values(workers_for(at_once * row_blocks * column_blocks) * area);

  for (int64_t first = 0; first < batch; first += at_once) {
    const int64_t now = std::min(at_once, batch - first);
    for_each_task(now * (row_chunks + column_chunks), [&](int64_t task, int64_t worker) {
      const int64_t k = task / (row_chunks + column_chunks), chunk_of_k = task % (row_chunks + column_chunks);
      T* own_scratch = scratch.get() + worker * chunk * total;
      const int64_t item = first + k;
      if (chunk_of_k < row_chunks)
        pack_side<T>(static_cast<const char*>(u.row(item * shape.terms * shape.rows)), u.type, u.element_bytes,
                     shape.rows, shape, factor.get() + item * total, chunk_of_k * chunk,
                     std::min((chunk_of_k + 1) * chunk, shape.rows), own_scratch, layout_a,
                     a.get() + k * layout_a.size());
      else
        pack_side<T>(static_cast<const char*>(v.row(item * shape.terms * shape.columns)), v.type, v.element_bytes,
                     shape.columns, shape, nullptr, (chunk_of_k - row_chunks) * chunk,
                     std::min((chunk_of_k - row_chunks + 1) * chunk, shape.columns), own_scratch, layout_b,
                     b.get() + k * layout_b.size());
    });
    for_each_task(now * row_blocks * column_blocks, [&](int64_t task, int64_t worker) {
      const int64_t k = task / (row_blocks * column_blocks);
      const int64_t i = task / column_blocks % row_blocks * block_rows<T>();
      const int64_t j = task % column_blocks * block_columns<T>();
      const int64_t height = std::min(block_rows<T>(), shape.rows - i);
      const int64_t width = std::min(block_columns<T>(), shape.columns - j);
      T* block = values.get() + worker * area;
      if (total == 0) std::fill(block, block + area, T(0));
      for (int64_t d = 0; d < total; d += depth.block)
        table.multiply(a.get() + k * layout_a.size() + layout_a.at(i, d),
                       b.get() + k * layout_b.size() + layout_b.at(j, d), block, block_stride<T>(),
                       ceil_div(height, table.tile_rows), ceil_div(width, table.tile_columns), depth.end(d) - d, d > 0,
                       kNoDiagonal);
      for (int64_t r = 0; r < height; ++r) {
        const int64_t offset = (((first + k) * shape.rows + i + r) * shape.columns + j) * u.element_bytes;
        table.store_row(out + offset, block + r * block_stride<T>(), base == nullptr ? nullptr : base->data + offset,
                        u.type, width);
      }
    });
  }
}

}  // namespace

Tensor low_rank_sum(Tensor u, Tensor v, Tensor coefficients, std::optional<Tensor> base) {
  const LowRankShape shape = check_low_rank(u, v, coefficients, base);
  AWPF_CHECK(u.is_cpu(), "u must be on the CPU");
  const int64_t batch = shape.batch;
  const auto flat = [&](const Tensor& t, int64_t rows, int64_t width) {
    return as_points(torch::stable::view(t, {rows, width}));
  };
  const Points left = flat(u, batch * shape.terms * shape.rows, shape.rank);
  const Points right = flat(v, batch * shape.terms * shape.columns, shape.rank);
  Points base_points{};
  if (base.has_value()) base_points = flat(*base, batch * shape.rows, shape.columns);
  Tensor result = allocate(u, {batch, shape.rows, shape.columns}, u.scalar_type());
  if (shape.empty()) return result;
  const Points* start = base.has_value() ? &base_points : nullptr;
  char* out = static_cast<char*>(result.mutable_data_ptr());
  const double* c = coefficients.const_data_ptr<double>();
  if (left.type == ElementType::f64)
    low_rank_product<double>(left, right, start, c, shape, out);
  else
    low_rank_product<float>(left, right, start, c, shape, out);
  return result;
}

}  // namespace awpf
