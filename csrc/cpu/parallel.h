// The parallel loop over tasks of unequal size.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <atomic>
#include <exception>
#include <mutex>
#include <thread>
#include <type_traits>

#include "cpu/interrupt.h"

namespace awpf {

inline int64_t workers_for(int64_t tasks) {
  const int64_t threads = torch::stable::get_num_threads();
  return tasks < threads ? tasks : threads;
}

// Why a loop over tasks ends early: an exception in a task, or an interrupt.
class EarlyEnd {
 public:
  // Whether no more work is to be done. A task that may take longer than a second asks from time to time, and returns
  // early if so: the loop then ends with an exception, and what it computed is never used.
  bool wanted() {
    if (std::this_thread::get_id() == caller_ && !ended_.load(std::memory_order_relaxed) && interrupt_wanted())
      ended_.store(true, std::memory_order_relaxed);
    return ended_.load(std::memory_order_relaxed);
  }
  // Called in the handler of an exception.
  void keep_exception() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!exception_) exception_ = std::current_exception();
    ended_.store(true, std::memory_order_relaxed);
  }
  // Raises the reason on the thread that called the loop, when all others are done.
  void raise_if_any() {
    if (exception_) std::rethrow_exception(exception_);
    if (ended_.load(std::memory_order_relaxed)) raise_interrupt();
  }

 private:
  const std::thread::id caller_ = std::this_thread::get_id();
  std::atomic<bool> ended_{false};
  std::mutex mutex_;
  std::exception_ptr exception_;
};

// Runs f(task, worker) or f(task, worker, early_end) for every task, each on the first free worker. A task writes only
// to memory of its own, so the result does not depend on the worker that runs it; `worker` < workers_for(tasks) selects
// a scratch buffer. The first exception of a task ends the loop; it never crosses torch's threads.
template <class F>
void for_each_task(int64_t tasks, const F& f) {
  if (tasks <= 0) return;
  std::atomic<int64_t> next{0};
  EarlyEnd end_early;
  torch::stable::parallel_for(0, workers_for(tasks), 1, [&](int64_t begin, int64_t end) {
    try {
      for (int64_t worker = begin; worker < end; ++worker)
        for (int64_t task = next++; task < tasks && !end_early.wanted(); task = next++)
          if constexpr (std::is_invocable_v<F, int64_t, int64_t, EarlyEnd&>)
            f(task, worker, end_early);
          else
            f(task, worker);
    } catch (...) {
      end_early.keep_exception();
    }
  });
  end_early.raise_if_any();
}

}  // namespace awpf
