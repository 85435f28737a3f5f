// Aligned scratch memory, uninitialised, and the parallel loop over tasks of unequal size.
#pragma once

#include <atomic>
#include <cstdlib>
#include <memory>
#include <new>

#include <torch/csrc/stable/ops.h>

namespace awpf {

constexpr int64_t kAlignment = 64;

template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(int64_t count) {
    if (count <= 0) return;
    const std::size_t bytes = (std::size_t(count) * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
    data_.reset(static_cast<T*>(std::aligned_alloc(kAlignment, bytes)));
    if (!data_) throw std::bad_alloc();
  }
  T* get() const { return data_.get(); }
  T& operator[](int64_t i) const { return data_.get()[i]; }

 private:
  struct Free {
    void operator()(T* p) const { std::free(p); }
  };
  std::unique_ptr<T, Free> data_;
};

inline int64_t workers_for(int64_t tasks) {
  const int64_t threads = torch::stable::get_num_threads();
  return tasks < threads ? tasks : threads;
}

// Runs f(task, worker) for every task, first come first served. A task writes only what is its own, so the result does
// not depend on who runs it; `worker` < workers_for(tasks) picks a scratch buffer.
template <class F>
void for_each_task(int64_t tasks, const F& f) {
  if (tasks <= 0) return;
  std::atomic<int64_t> next{0};
  torch::stable::parallel_for(0, workers_for(tasks), 1, [&](int64_t begin, int64_t end) {
    for (int64_t worker = begin; worker < end; ++worker)
      for (int64_t task = next++; task < tasks; task = next++) f(task, worker);
  });
}

inline int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }
inline int64_t ceil_div(int64_t value, int64_t divisor) { return (value + divisor - 1) / divisor; }

}  // namespace awpf
