// The block sums on Hopper, if the library was built for it and the device is one. Elsewhere sums.cu has all of them.
#pragma once

#include "cuda/mmd/plan.h"

namespace awpf {

#if defined(AWPF_SM90A) || defined(AWPF_EMULATE)
bool has_warpgroup_sums();
// Sums the problems computed in fp16, whose rows are packed in panels.
void launch_warpgroup_sums(const Plan& plan, Stream stream);
#else
inline bool has_warpgroup_sums() { return false; }
inline void launch_warpgroup_sums(const Plan&, Stream) {}
#endif

}  // namespace awpf
