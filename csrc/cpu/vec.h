// One vector type per scalar type, in the width of the instruction set that this file is compiled for.
//
// The vector extension of GCC and Clang has arithmetic, comparison and selection; this file adds what it lacks. Files
// that include this one are compiled once for each instruction set. Nothing here may therefore have external linkage,
// because the linker could keep the AVX-512 copy for all of them, and no standard header with inline code is included.
#pragma once

#include <stdint.h>

#include "common/kernel_mixture.h"

#if defined(__AVX512F__)
#define AWPF_VECTOR_BYTES 64
#elif defined(__AVX2__)
#define AWPF_VECTOR_BYTES 32
#else
#define AWPF_VECTOR_BYTES 16
#endif

namespace {

constexpr int kVectorBytes = AWPF_VECTOR_BYTES;

template <class T>
struct VecTypes;

template <>
struct VecTypes<float> {
  using Int = int32_t;
  typedef float Vec __attribute__((vector_size(kVectorBytes)));
  typedef int32_t IntVec __attribute__((vector_size(kVectorBytes)));
  typedef float Unaligned __attribute__((vector_size(kVectorBytes), aligned(4), may_alias));
  static constexpr int kMantissa = 23;
  static constexpr float kRound = awpf::Exp2Float::kRound;
  static constexpr float kLowest = awpf::Exp2Float::kLowest;
  // The smallest value whose square is still a normal number. Arithmetic on subnormal numbers is slow.
  static constexpr float kSquarable = 2.1684043449710089e-19f;  // 2^-62
};

template <>
struct VecTypes<double> {
  using Int = int64_t;
  typedef double Vec __attribute__((vector_size(kVectorBytes)));
  typedef int64_t IntVec __attribute__((vector_size(kVectorBytes)));
  typedef double Unaligned __attribute__((vector_size(kVectorBytes), aligned(8), may_alias));
  static constexpr int kMantissa = 52;
  static constexpr double kRound = 6755399441055744.0;
  static constexpr double kLowest = -1021.0;
  static constexpr double kSquarable = 2.9833362924800834e-154;  // 2^-510
};

template <class T>
using Vec = typename VecTypes<T>::Vec;
template <class T>
constexpr int kLanes = kVectorBytes / int(sizeof(T));

template <class T>
inline Vec<T> load(const T* p) {
  return *reinterpret_cast<const typename VecTypes<T>::Unaligned*>(p);
}

template <class T>
inline void store(T* p, Vec<T> v) {
  *reinterpret_cast<typename VecTypes<T>::Unaligned*>(p) = v;
}

// As many numbers as a vector of E has lanes.
template <class E, class T>
inline Vec<E> load_as(const T* p) {
  if constexpr (sizeof(E) == sizeof(T)) {
    return load(p);
  } else {
    typedef T Part __attribute__((vector_size(kLanes<E> * sizeof(T)), aligned(sizeof(T)), may_alias));
    return __builtin_convertvector(*reinterpret_cast<const Part*>(p), Vec<E>);
  }
}

inline void store_as(float* p, Vec<float> v) { store(p, v); }
inline void store_as(double* p, Vec<double> v) { store(p, v); }
inline void store_as(float* p, Vec<double> v) {
  typedef float Part __attribute__((vector_size(kLanes<double> * sizeof(float)), aligned(4), may_alias));
  *reinterpret_cast<Part*>(p) = __builtin_convertvector(v, Part);
}

template <class T>
inline Vec<T> splat(T value) {
  return value - Vec<T>{};
}

template <class T>
inline Vec<T> at_most(Vec<T> v, T bound) {
  return v > bound ? splat<T>(bound) : v;
}

template <class T>
inline Vec<T> at_least(Vec<T> v, T bound) {
  return v < bound ? splat<T>(bound) : v;
}

// Lanes 0, 1, 2, ... as integers.
template <class T>
inline typename VecTypes<T>::IntVec lane_index() {
  typename VecTypes<T>::IntVec index;
  for (int i = 0; i < kLanes<T>; ++i) index[i] = i;
  return index;
}

// Sums of many lanes are accumulated in double, whatever T is: a float sum that has grown loses what is added to it.
struct DoubleSum {
  Vec<double> low{}, high{};

  inline void add(Vec<double> v) { low += v; }

  inline void add(Vec<float> v) {
    typedef float Half __attribute__((vector_size(kVectorBytes / 2)));
    Half halves[2];
    __builtin_memcpy(halves, &v, sizeof(v));
    low += __builtin_convertvector(halves[0], Vec<double>);
    high += __builtin_convertvector(halves[1], Vec<double>);
  }

  inline double total() const {
    const Vec<double> both = low + high;
    double sum = 0;
    for (int i = 0; i < kLanes<double>; ++i) sum += both[i];
    return sum;
  }
};

// 2^f for |f| <= 1/2. The double polynomial, too, is minimax in the relative error: 3e-18 before rounding.
inline Vec<float> exp2_fraction(Vec<float> f) {
  using Exp2 = awpf::Exp2Float;
  Vec<float> p = splat(Exp2::kC6);
  p = p * f + Exp2::kC5;
  p = p * f + Exp2::kC4;
  p = p * f + Exp2::kC3;
  p = p * f + Exp2::kC2;
  p = p * f + Exp2::kC1;
  return p * f + 1.0f;
}

inline Vec<double> exp2_fraction(Vec<double> f) {
  Vec<double> p = splat(4.4352809446103361611e-10);
  p = p * f + 7.0741056262456593708e-9;
  p = p * f + 1.0178198033328527662e-7;
  p = p * f + 1.3215433089594629037e-6;
  p = p * f + 1.52527334899608046e-5;
  p = p * f + 1.5403530462514613026e-4;
  p = p * f + 1.3333558146789950323e-3;
  p = p * f + 9.6181291075883350833e-3;
  p = p * f + 5.5504108664819921483e-2;
  p = p * f + 2.4022650695910156205e-1;
  p = p * f + 6.9314718055994533046e-1;
  return p * f + 1.0;
}

// 2^x for x <= 0, or above by no more than rounding errors, within one ulp. Results are at least 2^kLowest. The caller
// must rule out NaN.
template <class T>
inline Vec<T> exp2_nonpositive(Vec<T> x) {
  using Types = VecTypes<T>;
  x = at_least<T>(x, Types::kLowest);
  const Vec<T> rounded = x + Types::kRound;
  const Vec<T> p = exp2_fraction(x - (rounded - Types::kRound));
  const auto exponent = reinterpret_cast<typename Types::IntVec>(rounded) << Types::kMantissa;
  return reinterpret_cast<Vec<T>>(reinterpret_cast<typename Types::IntVec>(p) + exponent);
}

}  // namespace
