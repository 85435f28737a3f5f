// The tensor-core instructions and exp2_approx of the emulator, from the fragment layouts of the PTX ISA.
#include "emulator/tensor_core.h"

#include "cuda/device/simt.h"

namespace awpf {
namespace emulator {

float add_products(float c, const float* a, const float* b) {
  float term[9];
  float largest = std::fabs(c);
  bool finite = std::isfinite(c);
  for (int k = 0; k < 8; ++k) {
    term[k] = a[k] * b[k];  // exact: eleven bits by eleven
    finite = finite && std::isfinite(term[k]);
    largest = std::max(largest, std::fabs(term[k]));
  }
  term[8] = c;
  if (!finite) {
    float sum = 0;
    for (const float value : term) sum += value;
    return sum;
  }
  if (largest == 0) return 0;
  const int exponent = std::ilogb(largest);
  const double scale = std::ldexp(1.0, 24 - exponent);
  int64_t sum = 0;
  for (const float value : term) sum += int64_t(double(value) * scale);
  uint64_t magnitude = uint64_t(sum < 0 ? -sum : sum);
  for (uint64_t lost = 1; magnitude >> 24 >= lost; lost *= 2) magnitude &= ~lost;
  const double result = double(magnitude) / scale;
  return float(sum < 0 ? -result : result);
}

}  // namespace emulator

namespace {

using emulator::add_products;
using emulator::collective;

struct Words {
  uint32_t value[4];
};

template <bool transposed>
struct LoadMatrices {
  void operator()(const void* const* const* row, Words* const* out) const {
    for (int matrix = 0; matrix < 4; ++matrix)
      for (int l = 0; l < 32; ++l) {
        uint16_t element[2];
        for (int e = 0; e < 2; ++e) {
          const int r = transposed ? 2 * (l % 4) + e : l / 4, c = transposed ? l / 4 : 2 * (l % 4) + e;
          element[e] = static_cast<const uint16_t*>(*row[8 * matrix + r])[c];
        }
        out[l]->value[matrix] = element[0] | uint32_t(element[1]) << 16;
      }
  }
};

template <bool transposed>
void load_matrices(const char* what, uint32_t (&to)[4], const void* row) {
  emulator::check_shared(row, 16, 16, "ldmatrix: not an aligned address in shared memory");
  const Words words = collective<const void*, Words>(what, row, LoadMatrices<transposed>{});
  std::copy(words.value, words.value + 4, to);
}

struct Fragments {
  const float* c;
  const uint32_t* a;
  uint32_t b[2];
};

struct Accumulators {
  float value[4];
};

template <float (*value_of)(uint16_t)>
struct Multiply16 {
  void operator()(const Fragments* const* in, Accumulators* const* out) const {
    float a[16][16], b[8][16];
    for (int l = 0; l < 32; ++l) {
      const int g = l / 4, t = l % 4;
      for (int e = 0; e < 2; ++e) {
        const int shift = 16 * e, depth = 2 * t + e;
        for (int part = 0; part < 4; ++part)
          a[g + 8 * (part % 2)][depth + 8 * (part / 2)] = value_of(uint16_t(in[l]->a[part] >> shift));
        for (int part = 0; part < 2; ++part) b[g][depth + 8 * part] = value_of(uint16_t(in[l]->b[part] >> shift));
      }
    }
    for (int l = 0; l < 32; ++l)
      for (int e = 0; e < 4; ++e) {
        const int row = l / 4 + 8 * (e / 2), column = 2 * (l % 4) + e % 2;
        const float half = add_products(in[l]->c[e], a[row], b[column]);
        out[l]->value[e] = add_products(half, a[row] + 8, b[column] + 8);
      }
  }
};

template <float (*value_of)(uint16_t)>
void multiply_16(const char* what, float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  const Accumulators sum = collective<Fragments, Accumulators>(what, Fragments{c, a, {b0, b1}}, Multiply16<value_of>{});
  std::copy(sum.value, sum.value + 4, c);
}

struct Doubles {
  double c[2], a, b;
};

struct MultiplyDouble {
  void operator()(const Doubles* const* in, Doubles* const* out) const {
    for (int l = 0; l < 32; ++l)
      for (int e = 0; e < 2; ++e) {
        const int row = l / 4, column = 2 * (l % 4) + e;
        double sum = in[l]->c[e];
        for (int k = 0; k < 4; ++k) sum = std::fma(in[4 * row + k]->a, in[4 * column + k]->b, sum);
        out[l]->c[e] = sum;
      }
  }
};

}  // namespace

void ldmatrix_x4(uint32_t (&to)[4], const void* row) { load_matrices<false>("ldmatrix_x4", to, row); }
void ldmatrix_x4_trans(uint32_t (&to)[4], const void* row) { load_matrices<true>("ldmatrix_x4_trans", to, row); }

void mma_f16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  multiply_16<half_value>("mma_f16", c, a, b0, b1);
}
void mma_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  multiply_16<bfloat16_value>("mma_bf16", c, a, b0, b1);
}

void mma_f64(double (&c)[2], double a, double b) {
  const Doubles sum = collective<Doubles, Doubles>("mma_f64", Doubles{{c[0], c[1]}, a, b}, MultiplyDouble{});
  c[0] = sum.c[0];
  c[1] = sum.c[1];
}

// Its error is up to 2^-22 of the value, without any pattern that a test could average away.
float exp2_approx(float x) {
  uint32_t noise = bit_cast<uint32_t>(x) * 0x9e3779b1u;
  noise ^= noise >> 15;
  noise *= 0x85ebca77u;
  noise ^= noise >> 13;
  const double error = (double(noise) * 0x1p-31 - 1.0) * 0x1p-22;
  const float value = float(std::exp2(double(x)) * (1.0 + error));
  return value < 0x1p-126f ? 0.0f : value;
}

}  // namespace awpf
