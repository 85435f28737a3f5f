#include "request.h"

namespace awpf {

Request read_request(const Tensor& z, const Tensor& rows, const std::optional<Tensor>& columns, const Tensor& gamma,
                     const std::optional<Tensor>& centre) {
  Request request{as_points(z), {}, {}, {}, {}};
  request.rows = read_pools(rows, request.points, "rows");
  const int64_t problems = request.problems();
  if (columns.has_value()) {
    request.columns = read_pools(*columns, request.points, "columns");
    AWPF_CHECK(int64_t(request.columns.size()) == problems, "columns must have as many problems as rows");
  }
  check_cpu_contiguous(gamma, "gamma");
  check_type(gamma, ScalarType::Double, "gamma", "float64");
  AWPF_CHECK(gamma.dim() == 2 && gamma.size(0) == problems, "gamma must have shape (problems, kernels)");
  for (int64_t p = 0; p < problems; ++p)
    request.mixtures.push_back(read_mixture(gamma.const_data_ptr<double>() + p * gamma.size(1), gamma.size(1)));
  const double* given = nullptr;
  if (centre.has_value()) {
    check_cpu_contiguous(*centre, "centre");
    check_type(*centre, ScalarType::Double, "centre", "float64");
    AWPF_CHECK(centre->dim() == 2 && centre->size(0) == problems && centre->size(1) == request.points.dim,
               "centre must have shape (problems, d)");
    given = centre->const_data_ptr<double>();
  }
  request.frames = find_frames(request.points, request.rows, request.columns, given);
  return request;
}

bool in_double(const Request& request, int64_t p) {
  if (request.points.element == Element::f64) return true;
  return !float_is_enough(request.mixtures[p].mean_gamma * request.frames[p].mean_square, request.pooled_rows(p));
}

template <class T>
Wave<T> pack_wave(const Request& request, const std::vector<int64_t>& problems, const Depth& depth) {
  Wave<T> wave;
  wave.problem = problems;
  for (const int64_t p : problems) wave.mixtures.emplace_back(request.mixtures[p]);
  struct Task {
    Packed<T>* to;
    const Pool* pool;
    int64_t problem, begin, end;
  };
  std::vector<Task> tasks;
  wave.rows.resize(problems.size());
  if (!request.symmetric()) wave.columns.resize(problems.size());
  for (std::size_t w = 0; w < problems.size(); ++w)
    for (int side = 0; side < (request.symmetric() ? 1 : 2); ++side) {
      const Pool& pool = side == 0 ? request.rows[problems[w]] : request.columns[problems[w]];
      Packed<T>& packed = side == 0 ? wave.rows[w] : wave.columns[w];
      packed.allocate(pool.size, depth.total, true, true);
      for (int64_t begin = 0; begin < pool.size; begin += packing_chunk<T>())
        tasks.push_back({&packed, &pool, problems[w], begin, std::min(begin + packing_chunk<T>(), pool.size)});
    }
  const int64_t scratch_size = packing_chunk<T>() * depth.total;
  Buffer<T> scratch(workers_for(int64_t(tasks.size())) * scratch_size);
  for_each_task(int64_t(tasks.size()), [&](int64_t t, int64_t worker) {
    const Task& task = tasks[t];
    task.to->pack(request.points, *task.pool, request.frames[task.problem], request.mixtures[task.problem].scale(),
                  depth, task.begin, task.end, scratch.get() + worker * scratch_size);
  });
  return wave;
}

BlockTask block_task(std::size_t wave_index, const Pool& rows, const Pool& columns, const Block& block, int64_t slot) {
  const int64_t g = rows.group_at(block.row_begin), h = columns.group_at(block.column_begin);
  return {
      wave_index, block, g, rows.group_at(block.row_end - 1) - g + 1, h, columns.group_at(block.column_end - 1) - h + 1,
      slot};
}

template Wave<float> pack_wave<float>(const Request&, const std::vector<int64_t>&, const Depth&);
template Wave<double> pack_wave<double>(const Request&, const std::vector<int64_t>&, const Depth&);

}  // namespace awpf
