#include "cpu/interrupt.h"

#include <time.h>

#include <atomic>
#include <cstdint>

#include "common/checks.h"

namespace awpf {
namespace {

constexpr int64_t kMillisecondsBetween = 100;

std::atomic<bool (*)()> registered_wanted{nullptr};
std::atomic<void (*)()> registered_raise{nullptr};
thread_local int64_t next_time = 0;

int64_t milliseconds() {
#if defined(CLOCK_MONOTONIC_COARSE)
  constexpr clockid_t kClock = CLOCK_MONOTONIC_COARSE;  // takes a few nanoseconds to read
#else
  constexpr clockid_t kClock = CLOCK_MONOTONIC;
#endif
  timespec now{};
  clock_gettime(kClock, &now);
  return int64_t(now.tv_sec) * 1000 + now.tv_nsec / 1000000;
}

}  // namespace

void begin_call() { next_time = milliseconds() + kMillisecondsBetween; }

bool interrupt_wanted() {
  const int64_t now = milliseconds();
  if (now < next_time) return false;
  next_time = now + kMillisecondsBetween;
  const auto wanted = registered_wanted.load(std::memory_order_acquire);
  return wanted != nullptr && wanted();
}

void raise_interrupt() {
  const auto raise = registered_raise.load(std::memory_order_acquire);
  if (raise != nullptr) raise();
  fail("interrupted");
}

}  // namespace awpf

extern "C" __attribute__((visibility("default"))) void awpf_interrupt_by(bool (*wanted)(), void (*raise)()) {
  awpf::registered_raise.store(raise, std::memory_order_release);
  awpf::registered_wanted.store(wanted, std::memory_order_release);
}
