// The mixture of Gaussian kernels of one problem.
#pragma once

#include <vector>

#include "common/kernel_mixture.h"
#include "common/lost_distances.h"
#include "cpu/kernel_table.h"

namespace awpf {

// The widest kernel comes first. The weight of a kernel is its part of the sum of all gamma_s, so that 2 mean_gamma
// times the weighted sum is the derivative of the mean of the kernels with respect to -|z_i - z_j|^2 / 2: gamma itself
// may be too small for single precision.
struct KernelMixture {
  std::vector<KernelStep> steps;
  double widest_gamma, mean_gamma;

  double count() const { return double(steps.size()); }
  // Points are multiplied with this, so that the widest kernel is 2^(-|z_i - z_j|^2 / 2).
  double scale() const;
  LostDistances lost_distances(int64_t dim) const;
};

KernelMixture read_mixture(const double* gamma, int64_t count);

// The steps of a mixture in the type and the layout that the kernel table expects.
template <class T>
struct MixtureArrays {
  std::vector<int32_t> squarings;
  std::vector<T> rate, weight;

  explicit MixtureArrays(const KernelMixture& mixture);
  MixtureView<T> view() const { return {int64_t(rate.size()), squarings.data(), rate.data(), weight.data()}; }
};

}  // namespace awpf
