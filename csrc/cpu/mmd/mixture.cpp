#include "cpu/mmd/mixture.h"

#include <cmath>

#include "common/checks.h"

namespace awpf {

// A product of roots, since twice a very large exponent overflows.
double KernelMixture::scale() const { return std::sqrt(2.0 / std::log(2.0)) * std::sqrt(widest_gamma); }

LostDistances KernelMixture::lost_distances(int64_t dim) const {
  return LostDistances::of(double(dim), std::sqrt(double(dim)), steps.back().rate);
}

KernelMixture read_mixture(const double* gamma, int64_t count) {
  AWPF_CHECK(count > 0, "bandwidth: at least one kernel is needed");
  KernelMixture mixture{std::vector<KernelStep>(count), 0, 0};
  const double sum = sort_exponents(gamma, int(count), mixture.steps.data());
  mixture.widest_gamma = mixture.steps.front().rate;
  mixture.mean_gamma = sum / double(count);
  AWPF_CHECK(fill_kernel_steps(mixture.steps.data(), int(count), sum),
             "bandwidth: every bandwidth must be a positive, finite number");
  return mixture;
}

template <class T>
MixtureArrays<T>::MixtureArrays(const KernelMixture& mixture) {
  for (const KernelStep& step : mixture.steps) {
    squarings.push_back(step.squarings);
    rate.push_back(T(step.rate));
    weight.push_back(T(step.weight));
  }
}

template struct MixtureArrays<float>;
template struct MixtureArrays<double>;

}  // namespace awpf
