// Packs the operands of the product of tile_gemm.h into strips of 32 rows.
//
// Each number is the exact sum of three bfloat16 numbers, of which the high part has the first 8 bits, the middle part
// the next 8 and the low part the rest.
//
// Range. The instruction takes denormal numbers for zero, and the high part of a number near the largest float would
// round to infinity. Each row of a block is therefore multiplied with a power of two, at most 2^63 or 1 / 2^63, that
// brings its largest number to 2^40 or as close as it can; the results are multiplied back, which is exact unless they
// leave the range of float. All floats then keep their 24 bits, except those smaller than 2^-143 (1e-43) of the largest
// number of their row, and products smaller than 2^-206 of the largest product are lost. Both are far below the
// rounding error of a sum. Parts of an infinity do not add up to one: rows with an infinity or a NaN are marked.
#pragma once

#include "cpu/elements.h"
#include "cpu/gemm.h"
#include "cpu/tiles.h"

namespace {

constexpr int kStripRows = 2 * kTileRows;                   // of either operand
constexpr int kStep = 2 * kTileLanes;                       // numbers of the depth in a tile
constexpr int64_t kPieceFloats = 2 * int64_t(kTileFloats);  // one part of a step of a strip
constexpr int64_t kStepFloats = 3 * kPieceFloats;           // high, middle and low part, one after the other

constexpr int kLargestExponent = 40;  // of the scaled numbers of a row

// A strip begins with the factors that undo the scaling of its rows, the number of parts that are not all zero, and a
// bit for each row that is not finite. The steps of the depth follow.
constexpr int64_t kPartsAt = kStripRows, kNotFiniteAt = kPartsAt + 1, kHeader = kStripRows + kTileLanes;

inline int64_t tile_strip_size(Operand, int64_t depth) { return kHeader + (depth + kStep - 1) / kStep * kStepFloats; }

// A tile holds 16 rows and 16 pairs of numbers. Which numbers of the depth form a pair does not matter as long as both
// operands agree: pair k holds number k and number k + 16 of the step, which makes a pair of two vectors lane by lane.

using Bits = uint32_t;
typedef Bits BitsVec __attribute__((vector_size(kVectorBytes)));
typedef Bits UnalignedBits __attribute__((vector_size(kVectorBytes), aligned(4), may_alias));

struct Parts {
  BitsVec high, middle, low;  // in the upper halves of the lanes
};

// The first two parts are rounded to the nearest number, so that each leaves a rest of as many bits less as it has.
inline Parts split(Vec<float> value) {
  constexpr Bits kHalf = 0x8000, kUpper = 0xffff0000;
  const BitsVec high = (reinterpret_cast<BitsVec>(value) + kHalf) & kUpper;
  const Vec<float> rest = value - reinterpret_cast<Vec<float>>(high);
  const BitsVec middle = (reinterpret_cast<BitsVec>(rest) + kHalf) & kUpper;
  return {high, middle, reinterpret_cast<BitsVec>(rest - reinterpret_cast<Vec<float>>(middle))};
}

inline void store_pairs(float* to, BitsVec first, BitsVec second) {
  *reinterpret_cast<UnalignedBits*>(to) = first >> 16 | (second & 0xffff0000);
}

// The bits of all middle and of all low parts of a strip, to see whether there are any.
struct Seen {
  BitsVec middle, low;

  int parts() const { return any(low) ? 3 : any(middle) ? 2 : 1; }
  static bool any(BitsVec bits) {
    Bits all = 0;
    for (int lane = 0; lane < kLanes<float>; ++lane) all |= bits[lane];
    return all != 0;
  }
};

// Splits 16 pairs: the first and the second numbers, all multiplied with `scale`, which is one number or one per pair.
template <bool kOneScale>
inline void split_pairs(const float* first, const float* second, const float* scale, float* to, int64_t piece_stride,
                        Seen& seen) {
#pragma GCC unroll 4
  for (int lane = 0; lane < kTileLanes; lane += kLanes<float>) {
    const Vec<float> factor = kOneScale ? splat(*scale) : load(scale + lane);
    const Parts one = split(load(first + lane) * factor), other = split(load(second + lane) * factor);
    store_pairs(to + lane, one.high, other.high);
    store_pairs(to + piece_stride + lane, one.middle, other.middle);
    store_pairs(to + 2 * piece_stride + lane, one.low, other.low);
    seen.middle |= one.middle | other.middle;
    seen.low |= one.low | other.low;
  }
}

inline void transpose_tile(float* to, const float* from) {
  for (int r = 0; r < kTileRows; r += 4)
    for (int k = 0; k < kTileLanes; k += 4)
      transpose_quad(to + k * kTileLanes + r, kTileLanes, from + r * kTileLanes + k, kTileLanes);
}

// Packs 16 rows and a step of the depth into one tile of each part. The source is 16 rows of 32 numbers, or, if the
// rows are contiguous, 32 times 16 numbers.
template <Operand kOperand, bool kDepthContiguous>
void pack_tile(float* to, const float* from, int64_t stride, const float* scale, Seen& seen) {
  // A tile of A holds one row of points per row, a tile of B one pair of the depth.
  constexpr bool kDirect = (kOperand == Operand::a) == kDepthContiguous;
  alignas(64) float square[3 * kTileFloats];
  float* const out = kDirect ? to : square;
  constexpr int64_t kPieceStride = kDirect ? kPieceFloats : kTileFloats;
  for (int line = 0; line < kTileRows; ++line)
    if (kDepthContiguous)
      split_pairs<true>(from + line * stride, from + line * stride + kTileLanes, scale + line, out + line * kTileLanes,
                        kPieceStride, seen);
    else
      split_pairs<false>(from + line * stride, from + (line + kTileLanes) * stride, scale, out + line * kTileLanes,
                         kPieceStride, seen);
  if (!kDirect)
    for (int piece = 0; piece < 3; ++piece) transpose_tile(to + piece * kPieceFloats, square + piece * kTileFloats);
}

// What the six products of a row with itself lack, halved: the sum of middle * low + low * low / 2. Half a squared norm
// without it is that of what is multiplied, and the distance of two rows is then zero where all parts agree.
inline double lacking_half_norm(const float* row, int64_t depth) {
  Vec<float> sum{};
  const auto add = [&](Vec<float> value) {
    const Parts parts = split(value);
    const Vec<float> low = reinterpret_cast<Vec<float>>(parts.low);
    sum += low * (reinterpret_cast<Vec<float>>(parts.middle) + 0.5f * low);
  };
  int64_t k = 0;
  for (; k + kLanes<float> <= depth; k += kLanes<float>) add(load(row + k));
  Vec<float> rest{};
  for (int lane = 0; k + lane < depth; ++lane) rest[lane] = row[k + lane];
  add(rest);
  double total = 0;
  for (int lane = 0; lane < kLanes<float>; ++lane) total += double(sum[lane]);
  return total;
}

inline void centre_rows_for_tiles(float* to, int64_t to_stride, const void* from, ElementType type, int64_t from_stride,
                                  int64_t rows, int64_t depth, const double* centre, double scale, double* half_norms) {
  centre_rows<float>(to, to_stride, from, type, from_stride, rows, depth, centre, scale, half_norms);
  for (int64_t r = 0; r < rows; ++r) half_norms[r] -= lacking_half_norm(to + r * to_stride, depth);
}

constexpr Bits kInfinity = 0x7f800000;

inline Bits magnitude(float value) {
  Bits bits;
  __builtin_memcpy(&bits, &value, sizeof(bits));
  return bits & 0x7fffffff;
}

// The largest magnitude of each row, as bits: those of positive numbers are in the order of the numbers.
template <bool kDepthContiguous>
void largest_of_rows(Bits* largest, const float* from, int64_t stride, int64_t rows, int64_t depth) {
  const int64_t lines = kDepthContiguous ? rows : depth, length = kDepthContiguous ? depth : rows;
  for (int64_t r = 0; r < kStripRows; ++r) largest[r] = 0;
  for (int64_t line = 0; line < lines; ++line) {
    const float* const source = from + line * stride;
    if (kDepthContiguous) {
      Bits most = 0;
      for (int64_t k = 0; k < length; ++k) most = magnitude(source[k]) > most ? magnitude(source[k]) : most;
      largest[line] = most;
    } else if (length == kStripRows) {
      for (int64_t r = 0; r < kStripRows; ++r)
        largest[r] = magnitude(source[r]) > largest[r] ? magnitude(source[r]) : largest[r];
    } else {
      for (int64_t r = 0; r < length; ++r)
        largest[r] = magnitude(source[r]) > largest[r] ? magnitude(source[r]) : largest[r];
    }
  }
}

inline float power_of_two(int exponent) {
  const Bits bits = Bits(exponent + 127) << 23;
  float value;
  __builtin_memcpy(&value, &bits, sizeof(value));
  return value;
}

// Packs strips from rows of points (the depth is contiguous) or from columns (the rows are contiguous).
template <Operand kOperand, bool kDepthContiguous>
void pack_tiles(float* to, const float* from, int64_t stride, int64_t rows, int64_t depth) {
  // A part of a strip at the edge of the source is copied here first, with zeros around it.
  alignas(64) float edge[kTileRows * kStep];
  constexpr int64_t kEdgeStride = kDepthContiguous ? kStep : kTileRows;
  const int64_t row_step = kDepthContiguous ? stride : 1, depth_step = kDepthContiguous ? 1 : stride;
  for (int64_t first = 0; first < rows; first += kStripRows, to += tile_strip_size(kOperand, depth)) {
    const int64_t valid = rows - first < kStripRows ? rows - first : kStripRows;
    const float* const strip = from + first * row_step;
    Bits largest[kStripRows];
    float scale[kStripRows];
    largest_of_rows<kDepthContiguous>(largest, strip, stride, valid, depth);
    for (int r = 0; r < kStripRows; ++r) {
      int exponent = int(largest[r] >> 23) - 127 - kLargestExponent;
      exponent = exponent < -63 ? -63 : exponent > 63 ? 63 : exponent;
      to[r] = power_of_two(exponent);
      scale[r] = power_of_two(-exponent);
    }
    Seen seen{};
    Bits not_finite = 0;
    for (int r = 0; r < kStripRows; ++r) not_finite |= Bits(largest[r] >= kInfinity) << r;
    float* out = to + kHeader;
    for (int64_t p = 0; p < depth; p += kStep, out += kStepFloats)
      for (int64_t r = 0; r < kStripRows; r += kTileRows) {
        const float* source = strip + r * row_step + p * depth_step;
        int64_t source_stride = stride;
        const int64_t height = valid - r, width = depth - p;
        if (height < kTileRows || width < kStep) {
          for (float& value : edge) value = 0;
          for (int64_t i = 0; i < height && i < kTileRows; ++i)
            for (int64_t k = 0; k < width && k < kStep; ++k)
              edge[kDepthContiguous ? i * kEdgeStride + k : k * kEdgeStride + i] =
                  source[i * row_step + k * depth_step];
          source = edge;
          source_stride = kEdgeStride;
        }
        pack_tile<kOperand, kDepthContiguous>(out + r * kTileLanes, source, source_stride, scale + r, seen);
      }
    to[kPartsAt] = float(seen.parts());
    __builtin_memcpy(to + kNotFiniteAt, &not_finite, sizeof(not_finite));
  }
}

}  // namespace
