#include "cpu/mmd/packed_rows.h"

namespace awpf {

template <class T>
void PackedRows<T>::allocate(const OriginalRows& from, const DepthBlocks& depth) {
  original = from;
  const int64_t rows = size = from.pooled->size;
  layout_a = StripLayout<T>(Operand::a, rows, depth);
  layout_b = StripLayout<T>(Operand::b, rows, depth);
  a = Buffer<T>(layout_a.size());
  b = Buffer<T>(layout_b.size());
  // A whole vector may be loaded from any position on.
  const int64_t padded = round_up(rows, common_strips<T>()) + kAlignment / int64_t(sizeof(T));
  norm = Buffer<T>(padded);
  norm_rest = Buffer<T>(padded);
  std::fill(norm.get() + rows, norm.get() + padded, T(0));
  std::fill(norm_rest.get() + rows, norm_rest.get() + padded, T(0));
}

template <class T>
void PackedRows<T>::pack(const Centering& centering, int64_t begin, int64_t end, T* scratch) {
  const Points& points = original.points;
  const int64_t dim = points.dim;
  std::vector<double> half_norm(end - begin);
  original.pooled->for_runs(begin, end, [&](int64_t first, int64_t position, int64_t count) {
    kernels<T>().centre_rows(scratch + (position - begin) * dim, dim, points.row(first), points.type, dim, count, dim,
                             centering.centre.data(), original.scale, half_norm.data() + (position - begin));
  });
  for (int64_t i = begin; i < end; ++i) {
    norm[i] = T(half_norm[i - begin]);
    norm_rest[i] = T(half_norm[i - begin] - double(norm[i]));
  }
  layout_a.pack_rows(a.get(), begin, scratch, dim, end - begin);
  layout_b.pack_rows(b.get(), begin, scratch, dim, end - begin);
}

template <class T>
GramBlock<T> gram_block(const PackedRows<T>& rows, const PackedRows<T>& columns, const DepthBlocks& depth,
                        const Block& block, int64_t diagonal, T* values, int64_t stride, std::vector<LostPair>& lost) {
  const int64_t row_strips = ceil_div(block.row_end - block.row_begin, kernels<T>().tile_rows);
  const int64_t column_strips = ceil_div(block.column_end - block.column_begin, kernels<T>().tile_columns);
  for (int64_t k = 0; k < depth.depth; k += depth.block) {
    kernels<T>().multiply(rows.a.get() + rows.layout_a.at(block.row_begin, k),
                          columns.b.get() + columns.layout_b.at(block.column_begin, k), values, stride, row_strips,
                          column_strips, depth.end(k) - k, k > 0, diagonal);
  }
  GramBlock<T> gram{values,
                    stride,
                    rows.norm.get() + block.row_begin,
                    rows.norm_rest.get() + block.row_begin,
                    columns.norm.get() + block.column_begin,
                    columns.norm_rest.get() + block.column_begin,
                    block.row_begin - block.column_begin};
  if constexpr (sizeof(T) == sizeof(double))
    restore_distances(rows.original, columns.original, block.row_begin, block.row_end - block.row_begin,
                      block.column_begin, block.column_end - block.column_begin, diagonal, gram, lost);
  return gram;
}

#define AWPF_INSTANTIATE(T)                                                                                         \
  template struct PackedRows<T>;                                                                                    \
  template GramBlock<T> gram_block<T>(const PackedRows<T>&, const PackedRows<T>&, const DepthBlocks&, const Block&, \
                                      int64_t, T*, int64_t, std::vector<LostPair>&);
AWPF_INSTANTIATE(float)
AWPF_INSTANTIATE(double)
#undef AWPF_INSTANTIATE

}  // namespace awpf
