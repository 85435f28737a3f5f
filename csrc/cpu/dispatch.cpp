// Chooses the instruction set once, when the library is loaded.
#include <cstdlib>
#include <cstring>
#include <string>

#include "common/checks.h"
#include "cpu/amx_support.h"
#include "cpu/kernel_table.h"

namespace awpf {

extern const KernelTable kKernelTable_baseline;
#if !defined(AWPF_ONLY_BASELINE)
extern const KernelTable kKernelTable_amx_portable;
#endif
#if defined(__x86_64__) && !defined(AWPF_ONLY_BASELINE)
extern const KernelTable kKernelTable_avx2;
extern const KernelTable kKernelTable_avx512;
#endif
#if defined(AWPF_AMX)
extern const KernelTable kKernelTable_amx;
#endif

namespace {

// Why the instructions of a table cannot be used, or null.
using Obstacle = const char* (*)();

struct Candidate {
  const KernelTable* table;
  Obstacle obstacle;
  bool only_on_request;
};

#if defined(__x86_64__) && !defined(AWPF_ONLY_BASELINE)
constexpr char kMissing[] = "this machine does not have that instruction set";

const char* why_no_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? nullptr : kMissing;
}

const char* why_no_avx512() {
  const bool found = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                     __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  return found ? nullptr : kMissing;
}
#endif

#if defined(AWPF_AMX)
const char* why_no_tiles() {
  if (const char* reason = why_no_avx512()) return reason;
  return why_no_amx();
}
#endif

const char* always_there() { return nullptr; }

// The best one first.
constexpr Candidate kCandidates[] = {
#if defined(AWPF_AMX)
    {&kKernelTable_amx, &why_no_tiles, false},
#endif
#if defined(__x86_64__) && !defined(AWPF_ONLY_BASELINE)
    {&kKernelTable_avx512, &why_no_avx512, false},     {&kKernelTable_avx2, &why_no_avx2, false},
#endif
    {&kKernelTable_baseline, &always_there, false},
#if !defined(AWPF_ONLY_BASELINE)
    {&kKernelTable_amx_portable, &always_there, true},
#endif
};

const KernelTable* wanted_table(const char* wanted) {
  std::string names;
  for (const Candidate& candidate : kCandidates) {
    names += (names.empty() ? "" : ", ") + std::string(candidate.table->name);
    if (std::strcmp(wanted, candidate.table->name) != 0) continue;
    const char* obstacle = candidate.obstacle();
    AWPF_CHECK(obstacle == nullptr, "AWPF_CPU_ISA=", wanted, ": ", obstacle);
    return candidate.table;
  }
  fail("AWPF_CPU_ISA=", wanted, ": this build has ", names);
}

struct Choice {
  const KernelTable* table = nullptr;
  std::string rejected;  // a line "name: reason" for each better table
};

Choice choose() {
#if defined(__x86_64__) && !defined(AWPF_ONLY_BASELINE)
  __builtin_cpu_init();
#endif
  Choice choice;
  if (const char* wanted = std::getenv("AWPF_CPU_ISA")) {
    choice.table = wanted_table(wanted);
    return choice;
  }
  for (const Candidate& candidate : kCandidates) {
    if (candidate.only_on_request) continue;
    const char* obstacle = candidate.obstacle();
    const auto is_exact = candidate.table->is_exact;
    if (obstacle == nullptr && is_exact != nullptr && !is_exact())
      obstacle = "its results on this machine are not those of the portable form";
    if (obstacle == nullptr) {
      choice.table = candidate.table;
      break;
    }
    choice.rejected += std::string(candidate.table->name) + ": " + obstacle + "\n";
  }
  return choice;
}

const Choice& choice() {
  static const Choice made = choose();
  return made;
}

}  // namespace

const KernelTable& kernel_table() { return *choice().table; }

const char* rejected_tables() { return choice().rejected.c_str(); }

template <>
const TypedKernels<float>& kernels<float>() {
  return *kernel_table().f32;
}

template <>
const TypedKernels<double>& kernels<double>() {
  return *kernel_table().f64;
}

}  // namespace awpf
