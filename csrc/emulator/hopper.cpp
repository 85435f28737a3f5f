// mbarrier, cp.async.bulk, wgmma and setmaxnreg as the PTX ISA describes them.
#include "cuda/device/hopper.h"

#include <array>
#include <map>

#include "emulator/machine.h"
#include "emulator/tensor_core.h"

namespace awpf {
namespace emulator {
namespace {

constexpr int kWarps = kWarpgroup / kWarp;
constexpr uint32_t kSharedStart = 1024;  // shared memory below it is reserved by the system

struct BulkCopy {
  void* to;
  const void* from;
  int bytes;
};

struct PhaseBarrier {
  int arrivals, pending, phase = 0;
  bool ready = false;  // visible to bulk copies
  int64_t expected = 0;
  std::vector<BulkCopy> copies;

  bool all_here() const {
    int64_t bytes = 0;
    for (const BulkCopy& copy : copies) bytes += copy.bytes;
    return pending == 0 && bytes == expected;
  }
  void end_phase() {
    for (const BulkCopy& copy : copies) std::memcpy(copy.to, copy.from, copy.bytes);
    copies.clear();
    expected = 0;
    pending = arrivals;
    ++phase;
  }
};

using Values = std::array<float, kWgmmaValues>;

// The accumulators of a warp, and the values that they will hold when all products started so far have ended.
struct Registers {
  std::array<float*, kWarp> place;
  std::array<Values, kWarp> value;
};

// A product that the warpgroup of a warp has started.
struct Product {
  float* c;  // of lane 0
  uint64_t a, b;
  bool add;
};

struct WarpProducts {
  bool fenced = false;
  std::vector<Product> open;
  std::deque<std::vector<Product>> committed;
  std::map<float*, Registers> registers;  // by the address of lane 0's
  size_t started = 0;

  bool busy(float* c) const {
    const auto adds_to_it = [=](const Product& product) { return product.c == c; };
    for (const auto& group : committed)
      if (std::any_of(group.begin(), group.end(), adds_to_it)) return true;
    return std::any_of(open.begin(), open.end(), adds_to_it);
  }
};

}  // namespace

constexpr int kRegisters = 65536;

struct Hopper {
  std::vector<int> registers;  // of a thread, for each warp
  int free_registers = 0;
  std::map<const Mbarrier*, PhaseBarrier> barriers;
  std::map<int, WarpProducts> warps;
  std::map<int, std::vector<std::array<uint64_t, 3>>> started;  // for each warpgroup, as its first warp started them
};

namespace {

Hopper& hopper() {
  Block& block = *machine.running->block;
  if (!block.hopper) block.hopper = std::make_shared<Hopper>();
  return *block.hopper;
}

PhaseBarrier& find(Mbarrier* barrier) {
  const auto found = hopper().barriers.find(barrier);
  if (found == hopper().barriers.end()) fail("a memory barrier that was not initialised");
  return found->second;
}

void arrive(PhaseBarrier& barrier) {
  if (barrier.pending == 0) fail("an arrival at a memory barrier whose phase has not ended");
  --barrier.pending;
  if (barrier.expected == 0 && barrier.all_here()) barrier.end_phase();
}

// The address of element `depth` of a row of an operand.
const void* element(uint64_t descriptor, int row, int depth) {
  const uint32_t start = uint32_t(descriptor & 0x3fff) << 4, leading = uint32_t(descriptor >> 16 & 0x3fff) << 4,
                 stride = uint32_t(descriptor >> 32 & 0x3fff) << 4, layout = uint32_t(descriptor >> 62);
  if ((descriptor & 0x3fffc000c000c000) != 0) fail("a matrix descriptor with bits that are not emulated");
  uint32_t address = start + row / 8 * stride;
  if (layout == 0) {
    address += depth / 8 * leading + row % 8 * 16 + depth % 8 * 2;
  } else {
    const uint32_t width = 256u >> layout;  // 128, 64 or 32 bytes
    address += row % 8 * width + depth * 2;
    address ^= (address >> 7 & (width / 16 - 1)) << 4;
  }
  const unsigned char* const place = static_cast<unsigned char*>(shared_base()) + (int64_t(address) - kSharedStart);
  check_shared(place, 2, 2, "an operand of a product lies outside of shared memory");
  return place;
}

float element_value(uint64_t descriptor, int row, int depth) {
  uint16_t bits;
  std::memcpy(&bits, element(descriptor, row, depth), sizeof(bits));
  return half_value(bits);
}

void multiply(const Product& product, int warp, std::array<Values, kWarp>& values) {
  float a[16][kWgmmaDepth], b[kWgmmaColumns][kWgmmaDepth];
  for (int k = 0; k < kWgmmaDepth; ++k) {
    for (int row = 0; row < 16; ++row) a[row][k] = element_value(product.a, warp % kWarps * 16 + row, k);
    for (int column = 0; column < kWgmmaColumns; ++column) b[column][k] = element_value(product.b, column, k);
  }
  for (int l = 0; l < kWarp; ++l)
    for (int v = 0; v < kWgmmaValues; ++v) {
      const int row = v / 2 % 2 * 8 + l / 4, column = v / 4 * 8 + l % 4 * 2 + v % 2;
      const float half = add_products(product.add ? values[l][v] : 0.0f, a[row], b[column]);
      values[l][v] = add_products(half, a[row] + 8, b[column] + 8);
    }
}

int this_warp() { return machine.running->index / kWarp; }

struct Nothing {};

struct RegisterRequest {
  int registers;
  bool give;
};

struct SetMaxRegisters {
  void operator()(const RegisterRequest* const* in, Nothing* const*) const {
    int& mine = hopper().registers[this_warp()];
    const RegisterRequest request = *in[0];
    if (request.registers % 8 != 0 || request.registers < 24 || request.registers > 256)
      fail("registers: a multiple of 8 from 24 to 256");
    if (request.give ? request.registers > mine : request.registers < mine)
      fail("registers are taken where they were to be given, or the reverse");
    mine = request.registers;
  }
};

struct Fence {
  void operator()(Nothing* const*, Nothing* const*) const { hopper().warps[this_warp()].fenced = true; }
};

struct Started {
  float* c;
  uint64_t a, b;
  bool add;
};

struct Start {
  void operator()(const Started* const* in, Nothing* const*) const {
    WarpProducts& mine = hopper().warps[this_warp()];
    const Product product{in[0]->c, in[0]->a, in[0]->b, in[0]->add};
    for (int l = 0; l < kWarp; ++l)
      if (in[l]->a != product.a || in[l]->b != product.b || in[l]->add != product.add)
        fail("lanes of a warp start different products");
    auto& of_group = hopper().started[this_warp() / kWarps];
    const std::array<uint64_t, 3> what{product.a, product.b, product.add};
    if (mine.started == of_group.size()) of_group.push_back(what);
    if (of_group[mine.started++] != what) fail("warps of a group start different products");
    if (mine.registers.count(product.c) == 0) {
      if (!mine.fenced) fail("a product into registers that were in use, without wgmma_fence");
      Registers& registers = mine.registers[product.c];
      for (int l = 0; l < kWarp; ++l) {
        registers.place[l] = in[l]->c;
        std::memcpy(registers.value[l].data(), in[l]->c, sizeof(Values));
        std::memset(in[l]->c, 0xff, sizeof(Values));
      }
    }
    mine.open.push_back(product);
  }
};

struct Commit {
  void operator()(Nothing* const*, Nothing* const*) const {
    WarpProducts& mine = hopper().warps[this_warp()];
    mine.committed.push_back(std::move(mine.open));
    mine.open.clear();
  }
};

struct Wait {
  void operator()(const int* const* in, Nothing* const*) const {
    WarpProducts& mine = hopper().warps[this_warp()];
    for (; int(mine.committed.size()) > *in[0]; mine.committed.pop_front())
      for (const Product& product : mine.committed.front())
        multiply(product, this_warp(), mine.registers.at(product.c).value);
    for (auto at = mine.registers.begin(); at != mine.registers.end();) {
      if (mine.busy(at->first)) {
        ++at;
        continue;
      }
      const Registers& done = at->second;
      for (int l = 0; l < kWarp; ++l) std::memcpy(done.place[l], done.value[l].data(), sizeof(Values));
      at = mine.registers.erase(at);
      mine.fenced = false;
    }
  }
};

}  // namespace

void set_max_registers(int each, bool give) {
  Hopper& block = hopper();
  if (block.registers.empty()) {
    const int threads = int(round_up(machine.running->block->fibers.size(), size_t(kWarpgroup)));
    block.registers.assign(threads / kWarp, kRegisters / threads / 8 * 8);
    block.free_registers = kRegisters - threads * block.registers[0];
  }
  const int cost = (each - block.registers[this_warp()]) * kWarp;
  const auto there = [=, &block] { return cost <= block.free_registers; };
  if (lane() == 0) {
    if (!there()) suspend_until("setmaxnreg_inc", there);
    block.free_registers -= cost;
  }
  collective<RegisterRequest, Nothing>("setmaxnreg_dec or _take", RegisterRequest{each, give}, SetMaxRegisters{});
}

void wait_for_wgmma(int newest_allowed) { collective<int, Nothing>("wgmma_wait", newest_allowed, Wait{}); }

}  // namespace emulator

using namespace emulator;

bool has_hopper() { return machine.capability == 90; }

uint32_t shared_address(const void* p) {
  return uint32_t(static_cast<const unsigned char*>(p) - static_cast<unsigned char*>(shared_base())) + kSharedStart;
}

void mbarrier_init(Mbarrier* barrier, int arrivals) {
  check_shared(barrier, sizeof(*barrier), sizeof(*barrier), "mbarrier_init: not an aligned address in shared memory");
  PhaseBarrier fresh{};
  fresh.arrivals = fresh.pending = arrivals;
  hopper().barriers[barrier] = fresh;
}

void mbarrier_init_fence() {
  for (auto& named : hopper().barriers) named.second.ready = true;
}

void mbarrier_arrive(Mbarrier* barrier) { arrive(find(barrier)); }

void mbarrier_arrive_expect_tx(Mbarrier* barrier, int bytes) {
  PhaseBarrier& found = find(barrier);
  found.expected += bytes;
  arrive(found);
}

void mbarrier_wait(Mbarrier* barrier, int parity) {
  PhaseBarrier& found = find(barrier);
  const auto ended = [=, &found] { return found.phase % 2 != parity || found.all_here(); };
  if (!ended()) suspend_until("mbarrier_wait", ended);
  if (found.phase % 2 == parity) found.end_phase();
}

void cp_async_bulk(void* to, const void* from, int bytes, Mbarrier* barrier) {
  check_shared(to, size_t(bytes), 16, "cp_async_bulk: not an aligned address in shared memory");
  if (bytes <= 0 || bytes % 16 != 0) fail("cp_async_bulk: not a multiple of 16 bytes");
  if (reinterpret_cast<uintptr_t>(from) % 16 != 0) fail("cp_async_bulk: the source is not aligned");
  PhaseBarrier& found = find(barrier);
  if (!found.ready) fail("cp_async_bulk: its barrier is not ready for it");
  std::memset(to, 0xff, size_t(bytes));
  found.copies.push_back({to, from, bytes});
}

void wgmma_fence() { collective<Nothing, Nothing>("wgmma_fence", Nothing{}, Fence{}); }

void wgmma_m64n128k16(float (&c)[kWgmmaValues], uint64_t a, uint64_t b, bool add) {
  collective<Started, Nothing>("wgmma_m64n128k16", Started{c, a, b, add}, Start{});
}

void wgmma_commit() { collective<Nothing, Nothing>("wgmma_commit", Nothing{}, Commit{}); }

}  // namespace awpf
