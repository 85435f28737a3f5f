// Chooses the instruction set once, when the library is loaded.
#include <cstdlib>
#include <cstring>

#include "../common/checks.h"
#include "hot_loops.h"

namespace awpf {

extern const HotLoopSet kHotLoops_baseline;
#if defined(__x86_64__)
extern const HotLoopSet kHotLoops_avx2;
extern const HotLoopSet kHotLoops_avx512;
#endif

namespace {

struct Candidate {
  const HotLoopSet* set;
  bool supported;
};

const HotLoopSet* choose() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const Candidate candidates[] = {
      {&kHotLoops_avx512, __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                              __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")},
      {&kHotLoops_avx2, __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")},
      {&kHotLoops_baseline, true},
  };
#else
  const Candidate candidates[] = {{&kHotLoops_baseline, true}};
#endif
  const char* wanted = std::getenv("AWPF_CPU_ISA");
  for (const Candidate& candidate : candidates) {
    if (wanted != nullptr && std::strcmp(wanted, candidate.set->name) != 0) continue;
    if (candidate.supported) return candidate.set;
    AWPF_CHECK(wanted == nullptr, "AWPF_CPU_ISA=", wanted, ": this machine does not have that instruction set");
  }
  AWPF_CHECK(false, "AWPF_CPU_ISA=", wanted, ": expected avx512, avx2 or baseline");
}

}  // namespace

const HotLoopSet& hot_loops() {
  static const HotLoopSet* const set = choose();
  return *set;
}

template <>
const HotLoops<float>& hot<float>() {
  return *hot_loops().f32;
}

template <>
const HotLoops<double>& hot<double>() {
  return *hot_loops().f64;
}

}  // namespace awpf
