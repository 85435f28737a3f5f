// How the tensor cores of the emulator accumulate.
#pragma once

namespace awpf::emulator {

// c plus the sum of eight products of 16-bit numbers, as coarsely as observed on any hardware: all nine are aligned to
// the largest, truncated one bit below its last place, added, and the sum is truncated (not rounded) to a float.
float add_products(float c, const float* a, const float* b);

}  // namespace awpf::emulator
