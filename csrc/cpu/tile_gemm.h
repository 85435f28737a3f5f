// The matrix product of gemm.h for float, with tiles (tiles.h): C (rows x columns) = or += A . B^T.
//
// Each number is the exact sum of three bfloat16 numbers (tile_packing.h). Of the nine products of such parts the six
// largest are computed; the others are below 2^-23 of the product. A strip of 32 rows against a strip of 32 columns
// keeps its results in four tiles: for 32 numbers of the depth 24 tile products and 14 loads of tiles. Each tile
// product adds up 32 numbers before it touches the result, so that a result is rounded a fifth as often as by one chain
// of FMAs, and a block of the depth is added to C as a whole.
//
// Where the numbers of a whole strip have fewer parts, because they were bfloat16, float16 or small integers, the
// products with the missing parts are left out, which changes no bit of the result.
#pragma once

#include "cpu/tile_packing.h"

namespace {

template <class Tiles>
inline void load_a(Tiles& tiles, const float* part) {
  tiles.template load<4>(part, kTileRowBytes);
  tiles.template load<5>(part + kTileFloats, kTileRowBytes);
}

template <class Tiles>
inline void load_b(Tiles& tiles, const float* part) {
  tiles.template load<6>(part, kTileRowBytes);
  tiles.template load<7>(part + kTileFloats, kTileRowBytes);
}

template <class Tiles>
inline void multiply_loaded(Tiles& tiles) {
  tiles.template multiply<0, 4, 6>();
  tiles.template multiply<1, 4, 7>();
  tiles.template multiply<2, 5, 6>();
  tiles.template multiply<3, 5, 7>();
}

// The product of two strips, scaled as they are, into `sums`. Each part of an operand is loaded as rarely as six
// products allow, the two largest parts last.
template <class Tiles>
inline void multiply_parts(Tiles& tiles, const float* a, int parts_of_a, const float* b, int parts_of_b, int64_t steps,
                           float* sums) {
  constexpr int64_t kMiddle = kPieceFloats, kLow = 2 * kPieceFloats;
  tiles.template zero<0>();
  tiles.template zero<1>();
  tiles.template zero<2>();
  tiles.template zero<3>();
  for (int64_t step = 0; step < steps; ++step, a += kStepFloats, b += kStepFloats) {
    load_b(tiles, b);
    if (parts_of_a > 2) {
      load_a(tiles, a + kLow);
      multiply_loaded(tiles);  // low . high
    }
    if (parts_of_a > 1) {
      load_a(tiles, a + kMiddle);
      multiply_loaded(tiles);  // middle . high
    }
    if (parts_of_b > 1) load_b(tiles, b + kMiddle);
    if (parts_of_a > 1 && parts_of_b > 1) multiply_loaded(tiles);  // middle . middle
    load_a(tiles, a);
    if (parts_of_b > 1) multiply_loaded(tiles);  // high . middle
    if (parts_of_b > 2) {
      load_b(tiles, b + kLow);
      multiply_loaded(tiles);  // high . low
    }
    if (parts_of_b > 1) load_b(tiles, b);
    multiply_loaded(tiles);  // high . high
  }
  constexpr int64_t kRowBytes = 4 * int64_t(kStripRows);
  tiles.template store<0>(sums, kRowBytes);
  tiles.template store<1>(sums + kTileLanes, kRowBytes);
  tiles.template store<2>(sums + kTileRows * kStripRows, kRowBytes);
  tiles.template store<3>(sums + kTileRows * kStripRows + kTileLanes, kRowBytes);
}

inline Bits bits_at(const float* from) {
  Bits bits;
  __builtin_memcpy(&bits, from, sizeof(bits));
  return bits;
}

// Number `k` of a row of a strip, scaled as it is.
template <Operand kOperand>
inline double number_at(const float* strip, int64_t row, int64_t k) {
  const int64_t line = row % kTileRows, pair = k % kTileLanes;
  const float* at = strip + kHeader + k / kStep * kStepFloats + row / kTileRows * kTileFloats +
                    (kOperand == Operand::a ? line * kTileLanes + pair : pair * kTileLanes + line);
  const int shift = k % kStep < kTileLanes ? 16 : 0;
  const auto part = [&](int which) {
    const Bits bits = bits_at(at + which * kPieceFloats) << shift & 0xffff0000;
    float value;
    __builtin_memcpy(&value, &bits, sizeof(value));
    return double(value);
  };
  return magnitude(float(part(0))) == kInfinity ? part(0) : part(0) + part(1) + part(2);
}

// Replaces the results of rows and columns that are not finite by those of the numbers themselves.
inline void redo_not_finite(const float* a, const float* b, int64_t steps, float* sums) {
  const Bits rows = bits_at(a + kNotFiniteAt), columns = bits_at(b + kNotFiniteAt);
  for (int64_t r = 0; r < kStripRows; ++r)
    for (int64_t c = 0; c < kStripRows; ++c) {
      if (((rows >> r | columns >> c) & 1) == 0) continue;
      double sum = 0;
      for (int64_t k = 0; k < steps * kStep; ++k)
        sum += number_at<Operand::a>(a, r, k) * number_at<Operand::b>(b, c, k);
      sums[r * kStripRows + c] = float(sum);
    }
}

// C = or += the product of two strips.
template <class Tiles>
inline void multiply_strips(Tiles& tiles, const float* a, const float* b, float* __restrict c, int64_t c_stride,
                            int64_t steps, bool accumulate) {
  alignas(64) float sums[kStripRows * kStripRows];
  multiply_parts(tiles, a + kHeader, int(a[kPartsAt]), b + kHeader, int(b[kPartsAt]), steps, sums);
  if (bits_at(a + kNotFiniteAt) != 0 || bits_at(b + kNotFiniteAt) != 0) redo_not_finite(a, b, steps, sums);
  for (int r = 0; r < kStripRows; ++r)
#pragma GCC unroll 2
    for (int k = 0; k < kStripRows; k += kLanes<float>) {
      const Vec<float> value = load(sums + r * kStripRows + k) * (load(b + k) * a[r]);
      float* const out = c + r * c_stride + k;
      store(out, accumulate ? load(out) + value : value);
    }
}

inline void multiply_by_tiles(const float* a, const float* b, float* c, int64_t c_stride, int64_t row_strips,
                              int64_t column_strips, int64_t depth, bool accumulate, int64_t diagonal) {
  const int64_t strip = tile_strip_size(Operand::a, depth);
  Tiles tiles;
  tiles.configure();
  for (int64_t j = 0; j < column_strips; ++j)
    for (int64_t i = 0; i < row_strips; ++i) {
      if (j * kStripRows >= diagonal + (i + 1) * kStripRows) continue;
      multiply_strips(tiles, a + i * strip, b + j * strip, c + i * kStripRows * c_stride + j * kStripRows, c_stride,
                      (depth + kStep - 1) / kStep, accumulate);
    }
  tiles.release();
}

// Whether the tile operations in use give the bits of the portable ones, on numbers whose sums round, cancel and meet
// the least normal number.
inline bool tiles_are_exact() {
  constexpr int64_t kSteps = 2;
  alignas(64) static float operands[2][kSteps * kStepFloats];
  alignas(64) static float found[kStripRows * kStripRows], expected[kStripRows * kStripRows];
  uint64_t state = 1;
  const auto random = [&] { return Bits((state = state * 6364136223846793005u + 1442695040888963407u) >> 33); };
  for (auto& operand : operands)
    for (float& pair : operand) {
      Bits bits = 0;
      for (int half = 0; half < 2; ++half) {
        // Products from about 2^-134 to 2^-118 in one half of the numbers, about 1 in the other; some are denormal.
        const Bits kind = random() % 16;
        const Bits exponent = kind == 0 ? 0 : (kind < 8 ? 60 : 123) + random() % 8;
        bits = bits << 16 | (random() & 1) << 15 | exponent << 7 | (random() & 0x7f);
      }
      __builtin_memcpy(&pair, &bits, sizeof(pair));
    }
  Tiles tiles;
  tiles.configure();
  multiply_parts(tiles, operands[0], 3, operands[1], 3, kSteps, found);
  tiles.release();
  PortableTiles portable;
  multiply_parts(portable, operands[0], 3, operands[1], 3, kSteps, expected);
  return __builtin_memcmp(found, expected, sizeof(found)) == 0;
}

}  // namespace
