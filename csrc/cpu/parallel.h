// The parallel loop over tasks of unequal size.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <atomic>

namespace awpf {

inline int64_t workers_for(int64_t tasks) {
  const int64_t threads = torch::stable::get_num_threads();
  return tasks < threads ? tasks : threads;
}

// Runs f(task, worker) for every task, each on the first free worker. A task writes only to memory of its own, so the
// result does not depend on the worker that runs it; `worker` < workers_for(tasks) selects a scratch buffer.
template <class F>
void for_each_task(int64_t tasks, const F& f) {
  if (tasks <= 0) return;
  std::atomic<int64_t> next{0};
  torch::stable::parallel_for(0, workers_for(tasks), 1, [&](int64_t begin, int64_t end) {
    for (int64_t worker = begin; worker < end; ++worker)
      for (int64_t task = next++; task < tasks; task = next++) f(task, worker);
  });
}

}  // namespace awpf
