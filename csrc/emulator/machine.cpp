// Launches and the scheduler. Blocks run one after the other; only those of a cooperative launch run concurrently.
#include "emulator/machine.h"

#include <cstdlib>
#include <sstream>
#include <stdexcept>

namespace awpf::emulator {

Machine machine;
Position* current = nullptr;

namespace {

void resume(Fiber* fiber) {
  machine.running = fiber;
  current = &fiber->position;
}

[[noreturn]] void leave() {
  Context abandoned;
  switch_context(abandoned, machine.main);
  std::abort();
}

std::string name_of(const dim3& at) {
  std::ostringstream text;
  text << "block (" << at.x << ", " << at.y << ", " << at.z << ")";
  return text.str();
}

std::string who_waits() {
  std::ostringstream text;
  for (const Block& block : machine.blocks) {
    int named = 0;
    for (const Fiber& fiber : block.fibers)
      if (!fiber.done && fiber.waits_for != nullptr && named++ < 6)
        text << (machine.cooperative ? " " + name_of(block.at) : "") << " thread " << fiber.index << ": "
             << fiber.waits_for << ";";
  }
  return text.str();
}

void wake_sleepers() {
  std::vector<Fiber*> awake;
  std::vector<SleepingFiber> asleep;
  for (SleepingFiber& sleeper : machine.sleeping) {
    if (sleeper.holds())
      awake.push_back(sleeper.fiber);
    else
      asleep.push_back(std::move(sleeper));
  }
  machine.sleeping = std::move(asleep);
  release(std::move(awake));
}

void next_fiber(Fiber* from) {
  if (machine.ready.empty()) wake_sleepers();
  if (machine.ready.empty()) {
    machine.error = "deadlock, or threads that left before a barrier:" + who_waits();
    leave();
  }
  Fiber* next = machine.ready.front();
  machine.ready.pop_front();
  if (next == from) return;
  resume(next);
  switch_context(from->context, next->context);
}

void fiber_main() {
  (*machine.kernel)();
  Fiber* self = machine.running;
  self->done = true;
  if (--machine.live == 0) leave();
  next_fiber(self);
  std::abort();
}

void check_guards(const Block& block) {
  const unsigned char* const end = block.shared + machine.shared_bytes;
  for (size_t i = 0; i < kGuardBytes; ++i)
    if (block.shared[-1 - int64_t(i)] != kGuard || end[i] != kGuard) machine.error = "a write outside of shared memory";
}

void fill(Block& block, dim3 grid, dim3 size, dim3 at, std::vector<Fiber*>& all) {
  const int threads = int(size.x * size.y * size.z);
  block.at = at;
  block.arena.assign(machine.shared_bytes + 2 * kGuardBytes + kSharedAlignment, kGuard);
  const auto first = reinterpret_cast<uintptr_t>(block.arena.data() + kGuardBytes);
  block.shared = block.arena.data() + kGuardBytes + (round_up(first, uintptr_t(kSharedAlignment)) - first);
  std::memset(block.shared, 0xff, machine.shared_bytes);
  block.hopper.reset();
  block.fibers.assign(threads, Fiber());
  block.warps.assign(threads / 32, Warp());
  for (Barrier& barrier : block.barriers) barrier = Barrier();
  for (int t = 0; t < threads; ++t) {
    Fiber& fiber = block.fibers[t];
    fiber.block = &block;
    fiber.index = t;
    const unsigned u = unsigned(t);
    fiber.position = {dim3(u % size.x, u / size.x % size.y, u / (size.x * size.y)), at, size, grid};
    const size_t stack = all.size();
    if (machine.stacks.size() <= stack) machine.stacks.emplace_back(new char[kStackBytes]);
    prepare_context(fiber.context, machine.stacks[stack].get(), fiber_main);
    all.push_back(&fiber);
  }
}

// Runs the given blocks at once.
void run_blocks(dim3 grid, dim3 size, const std::vector<dim3>& places) {
  std::vector<Fiber*> all;
  machine.blocks.resize(places.size());
  for (size_t b = 0; b < places.size(); ++b) fill(machine.blocks[b], grid, size, places[b], all);
  machine.grid_barrier = Barrier();
  machine.sleeping.clear();
  arrange(all);
  machine.ready.assign(all.begin(), all.end());
  machine.live = int(all.size());
  Fiber* first = machine.ready.front();
  machine.ready.pop_front();
  resume(first);
  switch_context(machine.main, first->context);
  std::string where = name_of(machine.running->block->at);
  current = nullptr;
  for (const Block& block : machine.blocks) {
    if (!machine.error.empty()) break;
    check_guards(block);
    where = name_of(block.at);
  }
  if (!machine.error.empty()) throw std::runtime_error("awpf_ext: emulator: " + where + ": " + machine.error);
}

}  // namespace

void suspend(const char* what) {
  Fiber* self = machine.running;
  self->waits_for = what;
  next_fiber(self);
}

void suspend_until(const char* what, std::function<bool()> holds) {
  machine.sleeping.push_back({machine.running, std::move(holds)});
  suspend(what);
}

void release(std::vector<Fiber*> fibers) {
  arrange(fibers);
  for (Fiber* fiber : fibers) {
    fiber->waits_for = nullptr;
    machine.ready.push_back(fiber);
  }
}

void yield() { next_fiber(machine.running); }

void fail(const char* what) {
  machine.error = what;
  leave();
}

void run_grid(dim3 grid, dim3 block, size_t shared_bytes, bool cooperative, const std::function<void()>& kernel) {
  const std::lock_guard<std::mutex> lock(machine.mutex);
  const unsigned threads = block.x * block.y * block.z;
  if (threads == 0 || threads % 32 != 0 || threads > 1024)
    throw std::runtime_error("awpf_ext: emulator: a block must have 32, 64, ... 1024 threads");
  if (shared_bytes > 227 * 1024) throw std::runtime_error("awpf_ext: emulator: more shared memory than any GPU has");
  if (grid.y > 65535 || grid.z > 65535) throw std::runtime_error("awpf_ext: emulator: the grid is too large");
  machine.random.seed(machine.order.seed);
  machine.shared_bytes = shared_bytes;
  machine.cooperative = cooperative;
  machine.kernel = &kernel;
  machine.error.clear();
  ++machine.launches;
  std::vector<dim3> blocks;
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) blocks.emplace_back(x, y, z);
  if (cooperative) {
    if (blocks.size() > size_t(machine.resident))
      throw std::runtime_error("awpf_ext: emulator: more blocks than run at once wait for each other");
    return run_blocks(grid, block, blocks);
  }
  arrange(blocks);
  for (const dim3& at : blocks) run_blocks(grid, block, {at});
}

}  // namespace awpf::emulator

int awpf::resident_blocks(const void*, int, size_t) { return emulator::machine.resident; }

// The order of blocks and threads in later launches: 0 forward, 1 backward, 2 shuffled by `seed`.
extern "C" __attribute__((visibility("default"))) void awpf_emulator_order(int kind, uint64_t seed) {
  awpf::emulator::machine.order = {kind, seed};
}

// How many blocks of a cooperative launch may run at once; 0 is a device with too little shared memory for one.
extern "C" __attribute__((visibility("default"))) void awpf_emulator_resident(int blocks) {
  awpf::emulator::machine.resident = blocks;
}

// The compute capability of the emulated device, times ten: 80, or 90 for Hopper.
extern "C" __attribute__((visibility("default"))) void awpf_emulator_capability(int value) {
  awpf::emulator::machine.capability = value;
}

// Computes pools of at least so many rows in single precision and smaller ones in double, whatever their points are
// like, for tests of the kernels; 0 leaves the choice to the rule.
extern "C" __attribute__((visibility("default"))) void awpf_emulator_single_precision(int64_t rows) {
  awpf::emulator::machine.single_precision_rows = rows;
}
int64_t awpf::emulator::single_precision_rows() { return machine.single_precision_rows; }

// The number of launches so far.
extern "C" __attribute__((visibility("default"))) int64_t awpf_emulator_launches() {
  return awpf::emulator::machine.launches;
}
