// How the emulator's tensor cores add.
#pragma once

namespace awpf::emulator {

// c + the sum of eight products of 16-bit numbers: the coarsest that has been observed on hardware. All nine are
// aligned to the largest, cut off one bit below its last place, added, and cut off (not rounded) to a float.
float add_products(float c, const float* a, const float* b);

}  // namespace awpf::emulator
