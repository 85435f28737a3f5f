// Loops over rows of any supported element type. They are plain loops that the compiler vectorises for the instruction
// set that this file is compiled for.
#pragma once

#include "cpu/kernel_table.h"
#include "cpu/vec.h"

namespace {

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

inline double widen(double value) { return value; }
inline float widen(float value) { return value; }

inline float widen(BFloat16 value) {
  const uint32_t bits = uint32_t(value.bits) << 16;
  float result;
  __builtin_memcpy(&result, &bits, sizeof(result));
  return result;
}

inline float widen(Half value) {
  // A multiplication with 2^112 moves the exponent, also that of subnormal numbers. Infinity and NaN get an exponent of
  // all ones.
  const uint32_t magnitude = uint32_t(value.bits & 0x7fff) << 13;
  const uint32_t sign = uint32_t(value.bits & 0x8000) << 16;
  const uint32_t saturated = magnitude >= 0x0f800000u ? 0x7f800000u : 0u;
  float result;
  __builtin_memcpy(&result, &magnitude, sizeof(result));
  result *= 5.192296858534828e33f;
  uint32_t bits;
  __builtin_memcpy(&bits, &result, sizeof(bits));
  bits |= sign | saturated;
  __builtin_memcpy(&result, &bits, sizeof(result));
  return result;
}

// Calls `f` with a typed pointer to the elements.
template <class F>
inline void with_elements(const void* data, ElementType type, F f) {
  switch (type) {
    case ElementType::f16: return f(static_cast<const Half*>(data));
    case ElementType::bf16: return f(static_cast<const BFloat16*>(data));
    case ElementType::f32: return f(static_cast<const float*>(data));
    case ElementType::f64: return f(static_cast<const double*>(data));
  }
}

template <class F>
inline void with_elements(void* data, ElementType type, F f) {
  switch (type) {
    case ElementType::f16: return f(static_cast<Half*>(data));
    case ElementType::bf16: return f(static_cast<BFloat16*>(data));
    case ElementType::f32: return f(static_cast<float*>(data));
    case ElementType::f64: return f(static_cast<double*>(data));
  }
}

// Sums of squares are accumulated in this many independent chains, which are added in a fixed order.
constexpr int kChains = 16;

inline double sum_chains(const double* chains) {
  double sum = 0;
  for (int l = 0; l < kChains; ++l) sum += chains[l];
  return sum;
}

template <class T, class S>
double centre_row(T* __restrict to, const S* __restrict from, const double* __restrict centre, double scale,
                  int64_t depth) {
  double chains[kChains] = {};
  int64_t p = 0;
  for (; p + kChains <= depth; p += kChains)
#pragma GCC unroll 16
    for (int l = 0; l < kChains; ++l) {
      const T value = T((double(widen(from[p + l])) - centre[p + l]) * scale);
      to[p + l] = value;
      chains[l] += double(value) * double(value);
    }
  for (int l = 0; p < depth; ++p, ++l) {
    const T value = T((double(widen(from[p])) - centre[p]) * scale);
    to[p] = value;
    chains[l] += double(value) * double(value);
  }
  return sum_chains(chains);
}

template <class T>
void centre_rows(T* to, int64_t to_stride, const void* from, ElementType type, int64_t from_stride, int64_t rows,
                 int64_t depth, const double* centre, double scale, double* half_norms) {
  with_elements(from, type, [&](auto* typed) {
    for (int64_t r = 0; r < rows; ++r)
      half_norms[r] = 0.5 * centre_row<T>(to + r * to_stride, typed + r * from_stride, centre, scale, depth);
  });
}

template <class T>
void centre_by_label(T* to, int64_t to_stride, const void* from, ElementType type, int64_t from_stride, int64_t rows,
                     int64_t depth, const double* centres, int64_t centre_stride, const int64_t* labels) {
  with_elements(from, type, [&](auto* typed) {
    for (int64_t r = 0; r < rows; ++r) {
      const auto* __restrict row = typed + r * from_stride;
      const double* __restrict centre = centres + labels[r] * centre_stride;
      T* __restrict out = to + r * to_stride;
      for (int64_t k = 0; k < depth; ++k) out[k] = T(double(widen(row[k])) - centre[k]);
    }
  });
}

template <class T>
void scale_rows(T* to, int64_t to_stride, const void* from, ElementType type, int64_t from_stride, int64_t rows,
                int64_t depth, const T* factor) {
  with_elements(from, type, [&](auto* typed) {
    for (int64_t r = 0; r < rows; ++r) {
      const auto* __restrict row = typed + r * from_stride;
      T* __restrict out = to + r * to_stride;
      if (factor == nullptr)
        for (int64_t k = 0; k < depth; ++k) out[k] = T(widen(row[k]));
      else
        for (int64_t k = 0; k < depth; ++k) out[k] = T(widen(row[k])) * factor[k];
    }
  });
}

template <class T>
void widen_bytes(T* __restrict to, const uint8_t* __restrict from, int64_t count) {
  for (int64_t k = 0; k < count; ++k) to[k] = T(from[k]);
}

inline void shuffle_values(uint32_t* values, int64_t count, const ShuffleKey& key) {
  const ShuffleKey local = key;
  for (int64_t k = 0; k < count; ++k) values[k] = shuffle_once(values[k], local);
}

// sums[labels[r]] += from[r].
inline void add_rows_by_label(double* sums, int64_t sums_stride, const void* from, ElementType type,
                              int64_t from_stride, int64_t rows, int64_t depth, const int64_t* labels) {
  with_elements(from, type, [&](auto* typed) {
    for (int64_t r = 0; r < rows; ++r) {
      const auto* __restrict row = typed + r * from_stride;
      double* __restrict sum = sums + labels[r] * sums_stride;
      for (int64_t k = 0; k < depth; ++k) sum[k] += double(widen(row[k]));
    }
  });
}

// sums += rows; returns the sum of their squares.
inline double add_rows(double* __restrict sums, const void* from, ElementType type, int64_t from_stride, int64_t rows,
                       int64_t depth) {
  double chains[kChains] = {};
  with_elements(from, type, [&](auto* typed) {
    for (int64_t r = 0; r < rows; ++r) {
      const auto* row = typed + r * from_stride;
      int64_t p = 0;
      for (; p + kChains <= depth; p += kChains)
#pragma GCC unroll 16
        for (int l = 0; l < kChains; ++l) {
          const double value = double(widen(row[p + l]));
          sums[p + l] += value;
          chains[l] += value * value;
        }
      for (int l = 0; p < depth; ++p, ++l) {
        const double value = double(widen(row[p]));
        sums[p] += value;
        chains[l] += value * value;
      }
    }
  });
  return sum_chains(chains);
}

// out[k] = |row - others[k]|^2 for a few rows at a time, so that independent sums hide the latency of each.
template <int kOthers>
inline void distances_to(double* out, const double* row, const double* others, int64_t stride, int64_t depth) {
  Vec<double> sums[kOthers] = {};
  double rest[kOthers] = {};
  int64_t p = 0;
  for (; p + kLanes<double> <= depth; p += kLanes<double>) {
    const Vec<double> own = load(row + p);
#pragma GCC unroll 8
    for (int k = 0; k < kOthers; ++k) {
      const Vec<double> difference = own - load(others + k * stride + p);
      sums[k] += difference * difference;
    }
  }
  for (; p < depth; ++p)
    for (int k = 0; k < kOthers; ++k) {
      const double difference = row[p] - others[k * stride + p];
      rest[k] += difference * difference;
    }
  for (int k = 0; k < kOthers; ++k) {
    out[k] = rest[k];
    for (int l = 0; l < kLanes<double>; ++l) out[k] += sums[k][l];
  }
}

inline void squared_distances(double* out, const double* row, const double* others, int64_t stride, int64_t count,
                              int64_t depth) {
  int64_t k = 0;
  for (; k + 8 <= count; k += 8) distances_to<8>(out + k, row, others + k * stride, stride, depth);
  for (; k + 2 <= count; k += 2) distances_to<2>(out + k, row, others + k * stride, stride, depth);
  for (; k < count; ++k) distances_to<1>(out + k, row, others + k * stride, stride, depth);
}

// |scale (a - b)|^2. Scaled before it is squared, so that no square overflows or vanishes.
inline double square_difference(const void* a, const void* b, ElementType type, double scale, int64_t depth) {
  double chains[kChains] = {};
  with_elements(a, type, [&](auto* one) {
    const auto* other = static_cast<decltype(one)>(b);
    int64_t p = 0;
    for (; p + kChains <= depth; p += kChains)
#pragma GCC unroll 16
      for (int l = 0; l < kChains; ++l) {
        const double difference = (double(widen(one[p + l])) - double(widen(other[p + l]))) * scale;
        chains[l] += difference * difference;
      }
    for (int l = 0; p < depth; ++p, ++l) {
      const double difference = (double(widen(one[p])) - double(widen(other[p]))) * scale;
      chains[l] += difference * difference;
    }
  });
  return sum_chains(chains);
}

// sums += factor * (a - b).
inline void add_difference(double* __restrict sums, const void* a, const void* b, ElementType type, double factor,
                           int64_t depth) {
  with_elements(a, type, [&](auto* one) {
    const auto* other = static_cast<decltype(one)>(b);
    for (int64_t p = 0; p < depth; ++p) sums[p] += factor * (double(widen(one[p])) - double(widen(other[p])));
  });
}

inline void narrow(double value, double* to) { *to = value; }
inline void narrow(float value, float* to) { *to = value; }
inline void narrow(double value, float* to) { *to = float(value); }

inline uint32_t bits_of(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof(bits));
  return bits;
}

inline void narrow(double value, BFloat16* to) {
  const uint32_t bits = bits_of(float(value));
  const bool nan = (bits & 0x7fffffff) > 0x7f800000;
  to->bits = nan ? 0x7fc0 : uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

inline void narrow(double value, Half* to) {
  const uint32_t bits = bits_of(float(value));
  const uint16_t sign = uint16_t(bits >> 16 & 0x8000);
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude >= 0x47800000) {  // 65536 and beyond, infinity, NaN
    to->bits = uint16_t(sign | (magnitude > 0x7f800000 ? 0x7e00 : 0x7c00));
  } else if (magnitude < 0x38800000) {  // subnormal: adding 0.5 rounds to a multiple of 2^-24
    float shifted;
    __builtin_memcpy(&shifted, &magnitude, sizeof(shifted));
    to->bits = uint16_t(sign | (bits_of(shifted + 0.5f) - 0x3f000000));
  } else {
    to->bits = uint16_t(sign | ((magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13));
  }
}

inline void narrow_row(void* to, ElementType type, const double* from, int64_t count) {
  with_elements(to, type, [&](auto* typed) {
    for (int64_t k = 0; k < count; ++k) narrow(from[k], typed + k);
  });
}

template <class T>
void store_row(void* to, const T* from, const void* base, ElementType type, int64_t count) {
  with_elements(to, type, [&](auto* typed) {
    const auto* under = static_cast<decltype(typed)>(const_cast<void*>(base));
    if (under == nullptr)
      for (int64_t k = 0; k < count; ++k) narrow(from[k], typed + k);
    else
      for (int64_t k = 0; k < count; ++k) narrow(T(from[k] + T(widen(under[k]))), typed + k);
  });
}

}  // namespace
