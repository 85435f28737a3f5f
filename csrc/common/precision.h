// Decides in which precision a sum of Gaussian kernels is computed, from a sample of its rows.
#pragma once

#include <math.h>
#include <stdint.h>

#if defined(__CUDACC__)
#define AWPF_HOST_DEVICE __host__ __device__
#else
#define AWPF_HOST_DEVICE
#endif

namespace awpf {

// The contract for fp32 inputs is an error of at most 1e-5 MMD^2 + 1e-9 (mean Kxx + mean Kyy). What is expected to stay
// within its second part, which is known before the sums are, is computed in single precision.
//
// Two errors matter, and both are drawn anew for every pair of rows, so that they average out over the pairs: that of
// an inner product, which a kernel value is more or less sensitive to, and that of the kernel value itself. Errors are
// alike where inner products or kernel values are: among duplicates, in tight clusters, or under kernels so wide that
// all values round to a few numbers. Such coincidences are counted in the sample.
enum class SumPrecision : int32_t {
  fp32,           // products and kernel values in single precision
  fp32_products,  // kernel values in double
  fp64,           // also for points that do not look like the sample
};

// The rows looked at, all pairs of which are looked at.
constexpr int kSampledRows = 32;
constexpr int kSampledPairs = kSampledRows * (kSampledRows - 1) / 2;

// Whether a look at the sample is worth its while. Pools of few rows take no longer in double than the sample. A row is
// no further from the centre than sqrt(rows mean_square): where that is many bandwidths, the rounding errors of single
// precision could be exponents without bounds.
AWPF_HOST_DEVICE inline bool may_be_in_float(int64_t rows, double mean_square, double narrowest_gamma) {
  return rows >= 48 && narrowest_gamma * mean_square * static_cast<double>(rows) <= 0x1p24;
}

constexpr double kRounding = 0x1p-24, kContract = 1e-9;
// Three standard deviations of what is seen stay within the contract, and one of what the sample may have missed:
// duplicates that are as frequent as one of its pairs.
constexpr double kDeviations = 3;

// The square of a rounding error, on average, in units of 2^-24 of what is rounded.
constexpr double kRoundingSquare = 0.16;

// One pair of the sample.
struct SampledPair {
  double product, square, other_square;  // inner product and squared norms, relative to the centre
  double value;                          // mean_s k_s
  double slope;                          // mean_s 2 gamma_s k_s: the derivative by the inner product
};

// How an inner product is added up: in equal chains of so many terms each. The partial sums of a chain are a random
// walk of the length of the norms plus a straight line to the product; these are the sums of their squares over all
// terms.
struct ProductChain {
  double dim, length;

  AWPF_HOST_DEVICE double walk() const { return 0.5 * length / dim; }
  AWPF_HOST_DEVICE double line() const { return length / dim * length / 3 + dim / length / 3; }
  // The square of the error of a product, in units of 2^-24.
  AWPF_HOST_DEVICE double error(const SampledPair& pair) const {
    return kRoundingSquare * (walk() * pair.square * pair.other_square + line() * pair.product * pair.product);
  }
};

// Sums over pairs of the sample.
struct PairSums {
  double pairs = 0, values = 0;
  double value_squares = 0;
  double product_errors = 0;   // squares of the errors of the inner products, times the slope, in units of 2^-24
  double exponent_errors = 0;  // the same of the distances that follow from them in single precision

  AWPF_HOST_DEVICE void add(const SampledPair& pair, const ProductChain& chain) {
    const double slope = pair.slope * pair.slope;
    const double half_distance = 0.5 * (pair.square + pair.other_square) - pair.product;
    const double difference = pair.product - 0.5 * pair.square;
    pairs += 1;
    values += pair.value;
    value_squares += pair.value * pair.value;
    product_errors += slope * chain.error(pair);
    exponent_errors += slope * kRoundingSquare * (difference * difference + half_distance * half_distance);
  }
};

// What is known of a problem before its sums are computed.
struct PrecisionEvidence {
  ProductChain chain;
  double mean_gamma, mean_square;  // the latter of all rows, relative to the centre
  double smallest_groups;          // 1 / n + 1 / m of the two smallest groups
  PairSums all;                    // pairs of the sample
  double sampled_mean_square;
  double equal_values, equal_products;  // pairs of pairs in the sample that round alike
};

// Pairs that are looked at within each group, besides the sample: a small group, or one of the very same rows, hardly
// shows in a sample of the pool, though its own sum counts as much as that of any other. Of very many groups, a part.
constexpr int kMostSampledGroups = 512;
AWPF_HOST_DEVICE inline int pairs_in_group(int64_t groups) { return groups < 16 ? int(16 / groups) : 1; }

// Whether the products of a group of so many rows may be in single precision, by some of its pairs.
AWPF_HOST_DEVICE inline bool group_may_be_in_float(const PairSums& within, int64_t rows) {
  if (!(within.pairs > 0)) return true;
  const double share = 1 / static_cast<double>(rows), mean = within.values / within.pairs;
  const double allowed = kContract * (mean + share * (1 - mean)) / kRounding;
  return kDeviations * kDeviations * 2 * share * share * within.product_errors / within.pairs <= allowed * allowed;
}

// Two kernel values or products in the same cell of these sizes round alike.
AWPF_HOST_DEVICE inline double equal_value_cell() { return 0x1p-26; }
AWPF_HOST_DEVICE inline double equal_product_cell(double mean_square) { return 0x1p-22 * mean_square; }

AWPF_HOST_DEVICE inline SumPrecision needed_precision(const PrecisionEvidence& seen) {
  // Of a kernel value, squared: kernels that are squares of others have up to four times the error of the first.
  constexpr double kValueError = 1.2;
  const PairSums& all = seen.all;
  if (!(all.pairs > 0) || !(seen.mean_square < 1e300)) return SumPrecision::fp64;
  const double share = seen.smallest_groups;
  const double mean = all.values / all.pairs;
  const double allowed = kContract * (2 * mean + share * (1 - mean)) / kRounding;

  // A large cluster that the sample has missed, or an outlier, shows in the mean square, but for a margin. The error of
  // its products is shared by all its pairs, and cancels but for the diagonal.
  const double unseen_square = fmax(0.0, seen.mean_square - 1.5 * seen.sampled_mean_square);
  if (4 * seen.mean_gamma * unseen_square * share > allowed) return SumPrecision::fp64;

  const double independent = 2 * share * share;
  const auto shared = [&](double equal) { return 8 * (equal + 0.5) / (all.pairs * all.pairs); };
  const double unlike = 2 * seen.mean_gamma * seen.mean_square;
  const double missed =
      kRoundingSquare * unlike * unlike * (seen.chain.walk() + seen.chain.line()) / all.pairs * independent;
  const double products = all.product_errors / all.pairs * (independent + shared(seen.equal_products));
  const double limit = allowed * allowed / (kDeviations * kDeviations);
  if (!(products <= limit && missed <= allowed * allowed)) return SumPrecision::fp64;
  const double values =
      (all.exponent_errors + kValueError * all.value_squares) / all.pairs * (independent + shared(seen.equal_values));
  return products + values <= limit ? SumPrecision::fp32 : SumPrecision::fp32_products;
}

}  // namespace awpf
