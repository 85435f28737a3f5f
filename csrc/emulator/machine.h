// The state of the emulator: threads as fibers, their blocks, and the scheduler's queues. Kernels only see simt.h.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <vector>

#include "cuda/device/simt.h"
#include "emulator/fiber.h"

namespace awpf::emulator {

constexpr size_t kGuardBytes = 4096;
constexpr unsigned char kGuard = 0x5a;
constexpr size_t kSharedAlignment = 1024;
constexpr int kBarriers = 16;

struct Copy {
  void* to;
  const void* from;
  size_t bytes;
  bool valid;
};

struct Block;
struct Hopper;

struct Fiber {
  Position position;
  Context context;
  Block* block = nullptr;
  int index = 0;  // in the block
  const char* waits_for = nullptr;
  bool done = false;
  std::vector<Copy> open;
  std::deque<std::vector<Copy>> committed;
};

struct Barrier {
  int arrived = 0, expected = 0;
  std::vector<Fiber*> waiting;
};

struct Warp {
  int arrived = 0;
  const char* what = nullptr;
  void* in[32];
  void* out[32];
  Fiber* lanes[32];
};

struct Block {
  dim3 at;
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  Barrier barriers[kBarriers];
  std::vector<unsigned char> arena;  // shared memory between two guards
  unsigned char* shared = nullptr;
  std::shared_ptr<Hopper> hopper;  // the state of hopper.cpp
};

// A fiber that sleeps until `holds` returns true.
struct SleepingFiber {
  Fiber* fiber;
  std::function<bool()> holds;
};

struct Order {
  int kind = 0;  // 0 forward, 1 backward, 2 shuffled
  uint64_t seed = 0;
};

struct Machine {
  std::mutex mutex;
  Order order;
  std::mt19937_64 random;
  std::vector<std::unique_ptr<char[]>> stacks;
  std::vector<Block> blocks;  // that run at once: one, or all of a cooperative launch
  Barrier grid_barrier;
  std::deque<Fiber*> ready;
  std::vector<SleepingFiber> sleeping;
  size_t shared_bytes = 0;
  bool cooperative = false;
  const std::function<void()>* kernel = nullptr;
  Context main;
  Fiber* running = nullptr;
  int live = 0;
  int64_t launches = 0;
  int capability = 80;
  int64_t single_precision_rows = 0;  // see awpf_emulator_single_precision
  int resident = 6;                   // most blocks of a cooperative launch
  std::string error;
};

extern Machine machine;

// Puts fibers or blocks in the order that tests have chosen.
template <class T>
void arrange(std::vector<T>& items) {
  if (machine.order.kind == 1) std::reverse(items.begin(), items.end());
  if (machine.order.kind == 2) std::shuffle(items.begin(), items.end(), machine.random);
}

// Lets other fibers run until one of them releases this one.
void suspend(const char* what);
// Lets other fibers run until `holds` returns true, which depends on what they write to memory.
void suspend_until(const char* what, std::function<bool()> holds);
void release(std::vector<Fiber*> fibers);
// Lets the other fibers run first.
void yield();

}  // namespace awpf::emulator
