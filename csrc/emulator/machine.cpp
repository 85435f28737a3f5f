// Fibers, barriers, warp collectives, shared memory and asynchronous copies of the emulator.
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <memory>
#include <mutex>
#include <random>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "../cuda/simt.h"

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace awpf::emulator {
namespace {

constexpr size_t kStackBytes = 256 << 10;
constexpr size_t kGuardBytes = 4096;
constexpr unsigned char kGuard = 0x5a;
constexpr int kBarriers = 16;

#if defined(__x86_64__)
struct Context {
  void* stack_pointer = nullptr;
};

extern "C" void awpf_emulator_switch(void** save, void* load);
asm(R"(
.text
.type awpf_emulator_switch, @function
awpf_emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size awpf_emulator_switch, .-awpf_emulator_switch
)");

void switch_context(Context& from, Context& to) { awpf_emulator_switch(&from.stack_pointer, to.stack_pointer); }

void prepare(Context& context, char* stack, void (*entry)()) {
  void** top = reinterpret_cast<void**>(stack + kStackBytes);
  *--top = nullptr;  // keeps the entry's frame aligned as after a call
  *--top = reinterpret_cast<void*>(entry);
  for (int r = 0; r < 6; ++r) *--top = nullptr;
  context.stack_pointer = top;
}
#else
using Context = ucontext_t;

void switch_context(Context& from, Context& to) { swapcontext(&from, &to); }

void prepare(Context& context, char* stack, void (*entry)()) {
  getcontext(&context);
  context.uc_stack.ss_sp = stack;
  context.uc_stack.ss_size = kStackBytes;
  context.uc_link = nullptr;
  makecontext(&context, entry, 0);
}
#endif

struct Copy {
  void* to;
  const void* from;
  size_t bytes;
  bool valid;
};

struct Fiber {
  Position position;
  Context context;
  int index = 0;
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

struct Order {
  int kind = 0;  // 0 forward, 1 backward, 2 shuffled
  uint64_t seed = 0;
};

struct Machine {
  std::mutex mutex;
  Order order;
  std::mt19937_64 random;
  std::vector<std::unique_ptr<char[]>> stacks;
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  Barrier barriers[kBarriers];
  std::deque<Fiber*> ready;
  std::vector<unsigned char> arena;
  size_t shared_bytes = 0;
  const std::function<void()>* kernel = nullptr;
  Context main;
  Fiber* running = nullptr;
  int live = 0;
  std::string error;
};

Machine machine;

template <class T>
void arrange(std::vector<T>& items) {
  if (machine.order.kind == 1) std::reverse(items.begin(), items.end());
  if (machine.order.kind == 2) std::shuffle(items.begin(), items.end(), machine.random);
}

void resume(Fiber* fiber) {
  machine.running = fiber;
  current = &fiber->position;
}

[[noreturn]] void leave_block() {
  Context abandoned;
  switch_context(abandoned, machine.main);
  std::abort();
}

std::string who_waits() {
  std::ostringstream text;
  int named = 0;
  for (const Fiber& fiber : machine.fibers)
    if (!fiber.done && fiber.waits_for != nullptr && named++ < 6)
      text << " thread " << fiber.index << ": " << fiber.waits_for << ";";
  return text.str();
}

void next_fiber(Fiber* from) {
  if (machine.ready.empty()) {
    machine.error = "deadlock, or threads that left before a barrier:" + who_waits();
    leave_block();
  }
  Fiber* next = machine.ready.front();
  machine.ready.pop_front();
  if (next == from) return;
  resume(next);
  switch_context(from->context, next->context);
}

void suspend(const char* what) {
  Fiber* self = machine.running;
  self->waits_for = what;
  next_fiber(self);
}

void release(std::vector<Fiber*> fibers) {
  arrange(fibers);
  for (Fiber* fiber : fibers) {
    fiber->waits_for = nullptr;
    machine.ready.push_back(fiber);
  }
}

void fiber_main() {
  (*machine.kernel)();
  Fiber* self = machine.running;
  self->done = true;
  if (--machine.live == 0) leave_block();
  next_fiber(self);
  std::abort();
}

void check_guards() {
  const unsigned char* begin = machine.arena.data();
  for (size_t i = 0; i < kGuardBytes; ++i)
    if (begin[i] != kGuard || begin[kGuardBytes + machine.shared_bytes + i] != kGuard)
      machine.error = "a write outside of shared memory";
}

void run_block(dim3 grid, dim3 block, dim3 at) {
  const int threads = int(block.x * block.y * block.z);
  std::memset(machine.arena.data(), kGuard, machine.arena.size());
  std::memset(machine.arena.data() + kGuardBytes, 0xff, machine.shared_bytes);
  machine.fibers.assign(threads, Fiber());
  machine.warps.assign(threads / 32, Warp());
  for (Barrier& barrier : machine.barriers) barrier = Barrier();
  std::vector<Fiber*> all;
  for (int t = 0; t < threads; ++t) {
    Fiber& fiber = machine.fibers[t];
    fiber.index = t;
    const unsigned u = unsigned(t);
    fiber.position = {dim3(u % block.x, u / block.x % block.y, u / (block.x * block.y)), at, block, grid};
    if (int(machine.stacks.size()) <= t) machine.stacks.emplace_back(new char[kStackBytes]);
    prepare(fiber.context, machine.stacks[t].get(), fiber_main);
    all.push_back(&fiber);
  }
  arrange(all);
  machine.ready.assign(all.begin(), all.end());
  machine.live = threads;
  Fiber* first = machine.ready.front();
  machine.ready.pop_front();
  resume(first);
  switch_context(machine.main, first->context);
  current = nullptr;
  if (machine.error.empty()) check_guards();
}

void deliver(const Copy& copy) {
  if (copy.valid)
    std::memcpy(copy.to, copy.from, copy.bytes);
  else
    std::memset(copy.to, 0, copy.bytes);
}

}  // namespace

Position* current = nullptr;

int lane() { return machine.running->index % 32; }

void* shared_base() { return machine.arena.data() + kGuardBytes; }

void fail(const char* what) {
  machine.error = what;
  leave_block();
}

void check_shared(const void* p, size_t bytes, size_t alignment, const char* what) {
  const auto address = reinterpret_cast<uintptr_t>(p), base = reinterpret_cast<uintptr_t>(shared_base());
  if (address < base || address + bytes > base + machine.shared_bytes || address % alignment != 0) fail(what);
}

void run_grid(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& kernel) {
  const std::lock_guard<std::mutex> lock(machine.mutex);
  const unsigned threads = block.x * block.y * block.z;
  if (threads == 0 || threads % 32 != 0 || threads > 1024)
    throw std::runtime_error("awpf_ext: emulator: a block must have 32, 64, ... 1024 threads");
  if (shared_bytes > 227 * 1024) throw std::runtime_error("awpf_ext: emulator: more shared memory than any GPU has");
  if (grid.y > 65535 || grid.z > 65535) throw std::runtime_error("awpf_ext: emulator: the grid is too large");
  machine.random.seed(machine.order.seed);
  machine.shared_bytes = shared_bytes;
  machine.arena.assign(shared_bytes + 2 * kGuardBytes, kGuard);
  machine.kernel = &kernel;
  machine.error.clear();
  std::vector<dim3> blocks;
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) blocks.emplace_back(x, y, z);
  arrange(blocks);
  for (const dim3& at : blocks) {
    run_block(grid, block, at);
    if (machine.error.empty()) continue;
    std::ostringstream message;
    message << "awpf_ext: emulator: block (" << at.x << ", " << at.y << ", " << at.z << "): " << machine.error;
    throw std::runtime_error(message.str());
  }
}

void block_barrier(int id, int count, const char* what) {
  Barrier& barrier = machine.barriers[id];
  const int expected = count > 0 ? count : int(machine.fibers.size());
  if (barrier.arrived > 0 && barrier.expected != expected) fail("threads disagree on the size of a barrier");
  barrier.expected = expected;
  if (++barrier.arrived < expected) {
    barrier.waiting.push_back(machine.running);
    suspend(what);
    return;
  }
  barrier.arrived = 0;
  std::vector<Fiber*> waiting;
  waiting.swap(barrier.waiting);
  waiting.push_back(machine.running);
  release(std::move(waiting));
  next_fiber(machine.running);
}

void warp_collective(const char* what, void* in, void* out, WarpWork compute) {
  Fiber* self = machine.running;
  Warp& warp = machine.warps[self->index / 32];
  const int lane = self->index % 32;
  if (warp.arrived > 0 && std::strcmp(warp.what, what) != 0) {
    static std::string message;
    message = std::string("lanes of a warp at different instructions: ") + warp.what + " and " + what;
    fail(message.c_str());
  }
  warp.what = what;
  warp.in[lane] = in;
  warp.out[lane] = out;
  warp.lanes[lane] = self;
  if (++warp.arrived < 32) {
    suspend(what);
    return;
  }
  warp.arrived = 0;
  compute(warp.in, warp.out);
  release(std::vector<Fiber*>(warp.lanes, warp.lanes + 32));
  next_fiber(self);
}

void copy_async(void* to, const void* from, size_t bytes, bool valid) {
  check_shared(to, bytes, bytes, "copy_async: not an aligned address in shared memory");
  if (valid && reinterpret_cast<uintptr_t>(from) % bytes != 0) fail("copy_async: the source is not aligned");
  std::memset(to, 0xff, bytes);
  machine.running->open.push_back({to, from, bytes, valid});
}

void copy_async_commit() {
  Fiber* self = machine.running;
  self->committed.push_back(std::move(self->open));
  self->open.clear();
}

void copy_async_wait(int newest_allowed) {
  auto& groups = machine.running->committed;
  while (int(groups.size()) > newest_allowed) {
    for (const Copy& copy : groups.front()) deliver(copy);
    groups.pop_front();
  }
}

}  // namespace awpf::emulator

// The order of blocks and threads in later launches: 0 forward, 1 backward, 2 shuffled by `seed`.
extern "C" __attribute__((visibility("default"))) void awpf_emulator_order(int kind, uint64_t seed) {
  awpf::emulator::machine.order = {kind, seed};
}
