// The emulator's own parts: threads as fibers, the blocks they form, and who runs next. Kernels see simt.h only.
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
  std::shared_ptr<Hopper> hopper;  // what hopper.cpp keeps
};

// A fiber that runs on when `holds` does.
struct Sleeper {
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
  std::vector<Block> blocks;  // those that run at once: one, or all of a cooperative launch
  Barrier grid_barrier;
  std::deque<Fiber*> ready;
  std::vector<Sleeper> sleeping;
  size_t shared_bytes = 0;
  bool cooperative = false;
  const std::function<void()>* kernel = nullptr;
  Context main;
  Fiber* running = nullptr;
  int live = 0;
  int64_t launches = 0;
  int capability = 80;
  int resident = 6;  // blocks of a cooperative launch
  std::string error;
};

extern Machine machine;

// In the order that tests choose.
template <class T>
void arrange(std::vector<T>& items) {
  if (machine.order.kind == 1) std::reverse(items.begin(), items.end());
  if (machine.order.kind == 2) std::shuffle(items.begin(), items.end(), machine.random);
}

// Lets others run until somebody releases this fiber.
void suspend(const char* what);
// Lets others run until `holds` does: for what other threads write to memory.
void suspend_until(const char* what, std::function<bool()> holds);
void release(std::vector<Fiber*> fibers);
// Lets others run first.
void yield();

}  // namespace awpf::emulator
