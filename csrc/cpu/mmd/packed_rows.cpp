#include "cpu/mmd/packed_rows.h"

namespace awpf {

template <class T>
void PackedRows<T>::allocate(int64_t rows, int64_t dim) {
  size = rows;
  padded_a = round_up(rows, kernels<T>().tile_rows);
  padded_b = round_up(rows, kernels<T>().tile_columns);
  a = Buffer<T>(padded_a * dim);
  b = Buffer<T>(padded_b * dim);
  // A whole vector may be loaded from any position on.
  const int64_t padded = std::max(padded_a, padded_b) + kAlignment / int64_t(sizeof(T));
  norm = Buffer<T>(padded);
  norm_rest = Buffer<T>(padded);
  std::fill(norm.get() + rows, norm.get() + padded, T(0));
  std::fill(norm_rest.get() + rows, norm_rest.get() + padded, T(0));
}

template <class T>
void PackedRows<T>::pack(const Points& points, const PooledRows& pooled, const Centering& centering, double scale,
                         const DepthBlocks& depth, int64_t begin, int64_t end, T* scratch) {
  const int64_t dim = points.dim;
  std::vector<double> half_norm(end - begin);
  pooled.for_runs(begin, end, [&](int64_t first, int64_t position, int64_t count) {
    kernels<T>().centre_rows(scratch + (position - begin) * dim, dim, points.row(first), points.type, dim, count, dim,
                             centering.centre.data(), scale, half_norm.data() + (position - begin));
  });
  for (int64_t i = begin; i < end; ++i) {
    norm[i] = T(half_norm[i - begin]);
    norm_rest[i] = T(half_norm[i - begin] - double(norm[i]));
  }
  for (int64_t k = 0; k < dim; k += depth.block) {
    const int64_t block = std::min(depth.block, dim - k);
    kernels<T>().pack_rows_a(a.get() + k * padded_a + begin * block, scratch + k, dim, end - begin, block);
    kernels<T>().pack_rows_b(b.get() + k * padded_b + begin * block, scratch + k, dim, end - begin, block);
  }
}

template <class T>
GramBlock<T> gram_block(const PackedRows<T>& rows, const PackedRows<T>& columns, const DepthBlocks& depth,
                        const Block& block, int64_t diagonal, T* values, int64_t stride) {
  const int64_t row_strips = ceil_div(block.row_end - block.row_begin, kernels<T>().tile_rows);
  const int64_t column_strips = ceil_div(block.column_end - block.column_begin, kernels<T>().tile_columns);
  for (int64_t k = 0; k < depth.depth; k += depth.block) {
    const int64_t count = std::min(depth.block, depth.depth - k);
    kernels<T>().multiply(rows.a.get() + k * rows.padded_a + block.row_begin * count,
                          columns.b.get() + k * columns.padded_b + block.column_begin * count, values, stride,
                          row_strips, column_strips, count, k > 0, diagonal);
  }
  return {values,
          stride,
          rows.norm.get() + block.row_begin,
          rows.norm_rest.get() + block.row_begin,
          columns.norm.get() + block.column_begin,
          columns.norm_rest.get() + block.column_begin,
          block.row_begin - block.column_begin};
}

#define AWPF_INSTANTIATE(T)                                                                                         \
  template struct PackedRows<T>;                                                                                    \
  template GramBlock<T> gram_block<T>(const PackedRows<T>&, const PackedRows<T>&, const DepthBlocks&, const Block&, \
                                      int64_t, T*, int64_t);
AWPF_INSTANTIATE(float)
AWPF_INSTANTIATE(double)
#undef AWPF_INSTANTIATE

}  // namespace awpf
