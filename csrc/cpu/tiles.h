// Matrix tiles: eight registers of 16 rows of 64 bytes, as AMX has them, and the operations on them that the product of
// tile_gemm.h needs. There are two forms: AmxTiles are the instructions, PortableTiles the same in C++, bit for bit.
//
// The source for the arithmetic is the entry TDPBF16PS in volume 2 of Intel's "64 and IA-32 Architectures Software
// Developer's Manual". A row of A holds 16 pairs of bfloat16, row k of B the k-th pair of each of 16 columns. For each
// element of C the first halves of the pairs form one chain of fused multiply-adds that starts from zero, the second
// halves another one; the two sums are added, and the result is added to C. Each of these steps rounds to the nearest
// even number. Denormal numbers among the operands count as zero, a denormal result becomes zero, and the control
// register of the thread has no influence.
#pragma once

#include <stdint.h>

#if defined(__AMX_BF16__)
#include <immintrin.h>
#endif

namespace {

constexpr int kTileRows = 16;
constexpr int kTileLanes = 16;                       // of 4 bytes in a row of a tile
constexpr int kTileFloats = kTileRows * kTileLanes;  // in a tile
constexpr int64_t kTileRowBytes = 4 * int64_t(kTileLanes);

// Rounds to single precision as the instruction does: what rounds to a denormal number becomes a zero of its sign. A
// double holds the product of two bfloat16 numbers exactly, and its sum with a float so precisely that rounding it
// again gives the rounded exact sum: 53 bits are at least twice 24 and two more.
inline float round_flushed(double value) {
  constexpr double kLeast = 0x1p-126 - 0x1p-151;  // from here on, 24 bits round to a normal number
  const double magnitude = value < 0 ? -value : value;
  return float(magnitude < kLeast ? value * 0.0 : value);
}

inline float flushed(uint32_t bits) {
  if ((bits & 0x7f800000) == 0) bits &= 0x80000000;
  float value;
  __builtin_memcpy(&value, &bits, sizeof(value));
  return value;
}

class PortableTiles {
 public:
  void configure() {}
  void release() {}

  template <int kTile>
  void zero() {
    for (uint32_t& lane : tiles_[kTile]) lane = 0;
  }
  template <int kTile>
  void load(const void* from, int64_t row_bytes) {
    for (int r = 0; r < kTileRows; ++r)
      __builtin_memcpy(tiles_[kTile] + r * kTileLanes, static_cast<const char*>(from) + r * row_bytes, kTileRowBytes);
  }
  template <int kTile>
  void store(void* to, int64_t row_bytes) const {
    for (int r = 0; r < kTileRows; ++r)
      __builtin_memcpy(static_cast<char*>(to) + r * row_bytes, tiles_[kTile] + r * kTileLanes, kTileRowBytes);
  }

  // C += A . B
  template <int kC, int kA, int kB>
  void multiply() {
    float first_of_b[kTileFloats], second_of_b[kTileFloats];
    for (int i = 0; i < kTileFloats; ++i) {
      first_of_b[i] = flushed(tiles_[kB][i] << 16);
      second_of_b[i] = flushed(tiles_[kB][i] & 0xffff0000);
    }
    for (int r = 0; r < kTileRows; ++r) {
      float first[kTileLanes] = {}, second[kTileLanes] = {};
      for (int k = 0; k < kTileLanes; ++k) {
        const uint32_t pair = tiles_[kA][r * kTileLanes + k];
        const double first_of_a = flushed(pair << 16), second_of_a = flushed(pair & 0xffff0000);
        for (int n = 0; n < kTileLanes; ++n) {
          first[n] = round_flushed(double(first[n]) + first_of_a * double(first_of_b[k * kTileLanes + n]));
          second[n] = round_flushed(double(second[n]) + second_of_a * double(second_of_b[k * kTileLanes + n]));
        }
      }
      uint32_t* const c = tiles_[kC] + r * kTileLanes;
      for (int n = 0; n < kTileLanes; ++n) {
        const float sum = round_flushed(double(first[n]) + double(second[n]));
        const float total = round_flushed(double(flushed(c[n])) + double(sum));
        __builtin_memcpy(c + n, &total, sizeof(total));
      }
    }
  }

 private:
  alignas(64) uint32_t tiles_[8][kTileFloats];
};

#if defined(__AMX_BF16__)

// The registers belong to the thread: `configure` must come first, and `release` last, because a thread with tiles in
// use is slower to switch.
class AmxTiles {
 public:
  void configure() {
    _tile_loadconfig(&kConfiguration);
    // The intrinsics do not tell the compiler which memory a tile is loaded from.
    __asm__ volatile("" ::: "memory");
  }
  void release() { _tile_release(); }

  template <int kTile>
  void zero();
  template <int kTile>
  void load(const void* from, int64_t row_bytes);
  template <int kTile>
  void store(void* to, int64_t row_bytes);
  template <int kC, int kA, int kB>
  void multiply();

 private:
  struct Configuration {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
  };
  alignas(64) static constexpr Configuration kConfiguration = {
      1, 0, {}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};
};

// The number of a tile is part of the instruction; the intrinsics take nothing but a literal.
#define AWPF_TILE(n)                                                                                  \
  template <>                                                                                         \
  inline __attribute__((always_inline)) void AmxTiles::zero<n>() {                                    \
    _tile_zero(n);                                                                                    \
  }                                                                                                   \
  template <>                                                                                         \
  inline __attribute__((always_inline)) void AmxTiles::load<n>(const void* from, int64_t row_bytes) { \
    _tile_loadd(n, from, row_bytes);                                                                  \
  }                                                                                                   \
  template <>                                                                                         \
  inline __attribute__((always_inline)) void AmxTiles::store<n>(void* to, int64_t row_bytes) {        \
    _tile_stored(n, to, row_bytes);                                                                   \
  }
// clang-format off
AWPF_TILE(0) AWPF_TILE(1) AWPF_TILE(2) AWPF_TILE(3) AWPF_TILE(4) AWPF_TILE(5) AWPF_TILE(6) AWPF_TILE(7)
// clang-format on
#undef AWPF_TILE

#define AWPF_TILE_PRODUCT(c, a, b)                                           \
  template <>                                                                \
  inline __attribute__((always_inline)) void AmxTiles::multiply<c, a, b>() { \
    _tile_dpbf16ps(c, a, b);                                                 \
  }
    // clang-format off
AWPF_TILE_PRODUCT(0, 4, 6) AWPF_TILE_PRODUCT(1, 4, 7) AWPF_TILE_PRODUCT(2, 5, 6) AWPF_TILE_PRODUCT(3, 5, 7)
// clang-format on
#undef AWPF_TILE_PRODUCT

        using Tiles = AmxTiles;

#else

using Tiles = PortableTiles;

#endif

}  // namespace
