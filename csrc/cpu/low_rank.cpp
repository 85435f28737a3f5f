// W = W_0 + sum_t U_t diag(c_t) V_t', for a batch.
//
// One product of depth K = sum_t r_t: FLOPs 2 m n K, bytes (m + n) K + m n. No delta of a single term ever exists.
// Trick: the terms are consecutive pieces of the depth, and c is folded into U while it is packed.
#include "../common/low_rank.h"

#include <algorithm>

#include "../common/ops.h"
#include "pooled.h"

namespace awpf {
namespace {

// Packs the rows [begin, end) of one side: every term's piece of the depth after the other, in blocks of the depth.
template <class T>
void pack_side(const char* from, Element element, int64_t element_bytes, int64_t rows, const LowRankShape& shape,
               const T* coefficients, int64_t begin, int64_t end, const Depth& depth, T* scratch, T* to, int64_t padded,
               void (*pack)(T*, const T*, int64_t, int64_t, int64_t)) {
  const int64_t total = shape.depth();
  for (int64_t t = 0; t < shape.terms; ++t)
    hot<T>().scale_rows(scratch + t * shape.rank, total, from + (t * rows + begin) * shape.rank * element_bytes,
                        element, shape.rank, end - begin, shape.rank,
                        coefficients == nullptr ? nullptr : coefficients + t * shape.rank);
  for (int64_t k = 0; k < total; k += depth.block) {
    const int64_t block = std::min(depth.block, total - k);
    pack(to + k * padded + begin * block, scratch + k, total, end - begin, block);
  }
}

template <class T>
void low_rank_product(const Points& u, const Points& v, const Points* base, const double* coefficients,
                      const LowRankShape& shape, char* out) {
  const int64_t batch = shape.batch;
  const auto& loops = hot<T>();
  const Depth depth(shape.depth());
  const int64_t total = shape.depth(), chunk = packing_chunk<T>();
  const int64_t padded_rows = round_up(shape.rows, loops.rows), padded_columns = round_up(shape.columns, loops.columns);
  // A few matrices at a time, so that packed factors stay in cache.
  const int64_t bytes_each = (padded_rows + padded_columns) * total * int64_t(sizeof(T));
  const int64_t at_once = std::min(batch, std::max<int64_t>(4, (int64_t(32) << 20) / std::max<int64_t>(1, bytes_each)));
  Buffer<T> factor(batch * total);
  for (int64_t k = 0; k < batch * total; ++k) factor[k] = T(coefficients[k]);
  Buffer<T> a(at_once * padded_rows * total), b(at_once * padded_columns * total);
  const int64_t row_chunks = ceil_div(shape.rows, chunk), column_chunks = ceil_div(shape.columns, chunk);
  const int64_t row_blocks = ceil_div(shape.rows, block_rows<T>());
  const int64_t column_blocks = ceil_div(shape.columns, block_columns<T>());
  const int64_t area = block_rows<T>() * block_stride<T>();
  Buffer<T> scratch(workers_for(at_once * (row_chunks + column_chunks)) * chunk * total);
  Buffer<T> values(workers_for(at_once * row_blocks * column_blocks) * area);

  for (int64_t first = 0; first < batch; first += at_once) {
    const int64_t now = std::min(at_once, batch - first);
    for_each_task(now * (row_chunks + column_chunks), [&](int64_t task, int64_t worker) {
      const int64_t k = task / (row_chunks + column_chunks), piece = task % (row_chunks + column_chunks);
      T* mine = scratch.get() + worker * chunk * total;
      const int64_t item = first + k;
      if (piece < row_chunks)
        pack_side<T>(static_cast<const char*>(u.row(item * shape.terms * shape.rows)), u.element, u.element_bytes,
                     shape.rows, shape, factor.get() + item * total, piece * chunk,
                     std::min((piece + 1) * chunk, shape.rows), depth, mine, a.get() + k * padded_rows * total,
                     padded_rows, loops.pack_rows_a);
      else
        pack_side<T>(static_cast<const char*>(v.row(item * shape.terms * shape.columns)), v.element, v.element_bytes,
                     shape.columns, shape, nullptr, (piece - row_chunks) * chunk,
                     std::min((piece - row_chunks + 1) * chunk, shape.columns), depth, mine,
                     b.get() + k * padded_columns * total, padded_columns, loops.pack_rows_b);
    });
    for_each_task(now * row_blocks * column_blocks, [&](int64_t task, int64_t worker) {
      const int64_t k = task / (row_blocks * column_blocks);
      const int64_t i = task / column_blocks % row_blocks * block_rows<T>();
      const int64_t j = task % column_blocks * block_columns<T>();
      const int64_t height = std::min(block_rows<T>(), shape.rows - i);
      const int64_t width = std::min(block_columns<T>(), shape.columns - j);
      T* block = values.get() + worker * area;
      if (total == 0) std::fill(block, block + area, T(0));
      for (int64_t d = 0; d < total; d += depth.block) {
        const int64_t count = std::min(depth.block, total - d);
        loops.multiply(a.get() + k * padded_rows * total + d * padded_rows + i * count,
                       b.get() + k * padded_columns * total + d * padded_columns + j * count, block, block_stride<T>(),
                       ceil_div(height, loops.rows), ceil_div(width, loops.columns), count, d > 0, kNoDiagonal);
      }
      for (int64_t r = 0; r < height; ++r) {
        const int64_t offset = (((first + k) * shape.rows + i + r) * shape.columns + j) * u.element_bytes;
        loops.store_row(out + offset, block + r * block_stride<T>(), base == nullptr ? nullptr : base->data + offset,
                        u.element, width);
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
  Points under{};
  if (base.has_value()) under = flat(*base, batch * shape.rows, shape.columns);
  Tensor result = torch::stable::new_empty(u, {batch, shape.rows, shape.columns});
  if (shape.empty()) return result;
  const Points* bottom = base.has_value() ? &under : nullptr;
  char* out = static_cast<char*>(result.mutable_data_ptr());
  const double* c = coefficients.const_data_ptr<double>();
  if (left.element == Element::f64)
    low_rank_product<double>(left, right, bottom, c, shape, out);
  else
    low_rank_product<float>(left, right, bottom, c, shape, out);
  return result;
}

}  // namespace awpf
