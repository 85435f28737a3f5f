// Chooses the instruction set once, when the library is loaded.
#include <cstdlib>
#include <cstring>

#include "common/checks.h"
#include "cpu/kernel_table.h"

namespace awpf {

extern const KernelTable kKernelTable_baseline;
#if defined(__x86_64__) && !defined(AWPF_ONLY_BASELINE)
extern const KernelTable kKernelTable_avx2;
extern const KernelTable kKernelTable_avx512;
#endif

namespace {

struct Candidate {
  const KernelTable* table;
  bool supported;
};

const KernelTable* choose() {
#if defined(__x86_64__) && !defined(AWPF_ONLY_BASELINE)
  __builtin_cpu_init();
  const Candidate candidates[] = {
      {&kKernelTable_avx512, __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                                 __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")},
      {&kKernelTable_avx2, __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")},
      {&kKernelTable_baseline, true},
  };
#else
  const Candidate candidates[] = {{&kKernelTable_baseline, true}};
#endif
  const char* wanted = std::getenv("AWPF_CPU_ISA");
  for (const Candidate& candidate : candidates) {
    if (wanted != nullptr && std::strcmp(wanted, candidate.table->name) != 0) continue;
    if (candidate.supported) return candidate.table;
    AWPF_CHECK(wanted == nullptr, "AWPF_CPU_ISA=", wanted, ": this machine does not have that instruction set");
  }
  AWPF_CHECK(false, "AWPF_CPU_ISA=", wanted, ": expected avx512, avx2 or baseline");
}

}  // namespace

const KernelTable& kernel_table() {
  static const KernelTable* const table = choose();
  return *table;
}

template <>
const TypedKernels<float>& kernels<float>() {
  return *kernel_table().f32;
}

template <>
const TypedKernels<double>& kernels<double>() {
  return *kernel_table().f64;
}

}  // namespace awpf
