// Aligned scratch memory, uninitialised, and the parallel loop over tasks of unequal size.
#pragma once

#include <atomic>
#include <cstdlib>
#include <memory>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <torch/csrc/stable/ops.h>

namespace awpf {

constexpr int64_t kAlignment = 64;
constexpr std::size_t kHugePage = std::size_t(2) << 20;

template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(int64_t count) {
    if (count <= 0) return;
    // Large buffers ask for huge pages: first touch and address translation cost a tenth of the products otherwise.
    std::size_t bytes = std::size_t(count) * sizeof(T);
    const std::size_t alignment = bytes >= kHugePage ? kHugePage : kAlignment;
    bytes = (bytes + alignment - 1) / alignment * alignment;
    data_.reset(static_cast<T*>(std::aligned_alloc(alignment, bytes)));
    if (!data_) throw std::bad_alloc();
#if defined(__linux__)
    if (alignment == kHugePage) madvise(data_.get(), bytes, MADV_HUGEPAGE);  // advice: a refusal changes nothing
#endif
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
