// What threads do together: barriers, warp instructions, and asynchronous copies to shared memory.
#include "emulator/machine.h"

namespace awpf::emulator {
namespace {

void arrive(Barrier& barrier, int expected, const char* what) {
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
  yield();
}

void deliver(const Copy& copy) {
  if (copy.valid)
    std::memcpy(copy.to, copy.from, copy.bytes);
  else
    std::memset(copy.to, 0, copy.bytes);
}

}  // namespace

int lane() { return machine.running->index % 32; }

void* shared_base() { return machine.running->block->shared; }

void check_shared(const void* p, size_t bytes, size_t alignment, const char* what) {
  const auto address = reinterpret_cast<uintptr_t>(p), base = reinterpret_cast<uintptr_t>(shared_base());
  if (address < base || address + bytes > base + machine.shared_bytes || address % alignment != 0) fail(what);
}

void block_barrier(int id, int count, const char* what) {
  Block& block = *machine.running->block;
  arrive(block.barriers[id], count > 0 ? count : int(block.fibers.size()), what);
}

void barrier_of_grid(const char* what) {
  if (!machine.cooperative) fail("blocks of a launch that is not cooperative wait for each other");
  arrive(machine.grid_barrier, int(machine.blocks.size() * machine.blocks.front().fibers.size()), what);
}

void wait_until_at_least(const uint32_t* counter, uint32_t target, const char* what) {
  if (!machine.cooperative) fail("blocks of a launch that is not cooperative wait for each other");
  const auto reached = [=] { return int32_t(*counter - target) >= 0; };
  if (!reached()) suspend_until(what, reached);
}

void warp_collective(const char* what, void* in, void* out, WarpWork compute) {
  Fiber* self = machine.running;
  Warp& warp = self->block->warps[self->index / 32];
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
  yield();
}

void cp_async(void* to, const void* from, size_t bytes, bool valid) {
  check_shared(to, bytes, bytes, "cp_async: not an aligned address in shared memory");
  if (valid && reinterpret_cast<uintptr_t>(from) % bytes != 0) fail("cp_async: the source is not aligned");
  std::memset(to, 0xff, bytes);
  machine.running->open.push_back({to, from, bytes, valid});
}

void cp_async_commit() {
  Fiber* self = machine.running;
  self->committed.push_back(std::move(self->open));
  self->open.clear();
}

void cp_async_wait(int newest_allowed) {
  auto& groups = machine.running->committed;
  while (int(groups.size()) > newest_allowed) {
    for (const Copy& copy : groups.front()) deliver(copy);
    groups.pop_front();
  }
}

}  // namespace awpf::emulator
