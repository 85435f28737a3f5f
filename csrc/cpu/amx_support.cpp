#include "cpu/amx_support.h"

#if defined(AWPF_AMX)

#include <cpuid.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace awpf {
namespace {

constexpr uint32_t bit(int number) { return uint32_t(1) << number; }

// The tile instructions for bfloat16, and tiles of the size that tiles.h expects.
bool has_tiles() {
  constexpr uint32_t kBf16 = bit(22), kTile = bit(24);  // of EDX
  constexpr uint32_t kFeatures = 7, kTileInformation = 0x1d, kPalette = 1;
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid_count(kFeatures, 0, &eax, &ebx, &ecx, &edx) == 0) return false;
  if ((edx & kBf16) == 0 || (edx & kTile) == 0) return false;
  if (__get_cpuid_count(kTileInformation, kPalette, &eax, &ebx, &ecx, &edx) == 0) return false;
  const uint32_t row_bytes = ebx & 0xffff, tiles = ebx >> 16, rows = ecx & 0xffff;
  return row_bytes >= 64 && tiles >= 8 && rows >= 16;
}

// Linux saves the tiles of a thread only after its process has asked for them (arch/x86/include/uapi/asm/prctl.h).
bool is_permitted() {
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

}  // namespace

const char* why_no_amx() {
  if (!has_tiles()) return "this machine does not have that instruction set";
  if (!is_permitted()) return "the operating system does not permit it";
  return nullptr;
}

}  // namespace awpf

#endif
