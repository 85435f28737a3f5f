// Every operation of the package, one line each. Schemas are part of the public contract (README, "Versions").
#include "common/ops.h"

#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(AWPF_LIBRARY, m) {
  // S[p, g, h]: sums of mean_s exp(-gamma[p, s] |z_i - z_j|^2) over row group g and column group h of problem p. Groups
  // are ranges of rows of z: rows (p, G, 2), columns (p, H, 2) or, without them, the rows against themselves. float64.
  // one_product: float32 points are multiplied as what float16 keeps of them, on devices that are faster then.
  m.def(
      "rbf_sums(Tensor z, Tensor rows, Tensor? columns, Tensor gamma, Tensor? centre, bool one_product=False) -> "
      "Tensor");
  m.def(
      "rbf_sums_backward(Tensor grad, Tensor z, Tensor rows, Tensor? columns, Tensor gamma, Tensor? centre, "
      "bool one_product=False) -> Tensor");
  // (p,): constant[p] + sum_gh coefficients[p, g, h] S[p, g, h]; float64 for float64 points, else float32.
  m.def(
      "rbf_weighted_sums(Tensor z, Tensor rows, Tensor gamma, Tensor coefficients, Tensor constant, "
      "bool one_product=False) -> Tensor");
  // The sums, and the gradient (float32 or float64) of sum_gh coefficients[p, g, h] S[p, g, h], in one pass over the
  // pairs. Blocks of coefficient zero are not visited: their sums are not found.
  m.def(
      "rbf_sums_and_gradient(Tensor z, Tensor rows, Tensor gamma, Tensor coefficients, bool one_product=False) -> "
      "(Tensor, Tensor)");
  // (p, 1 + permutations, 3): sums of xx, xy and yy under the given split (first) and random ones.
  m.def(
      "rbf_permutation_sums(Tensor z, Tensor rows, Tensor gamma, SymInt permutations, int seed, "
      "bool one_product=False) -> Tensor");
  // (p,): lower median of the squared distances between the pooled rows, or a seeded choice of max_rows of them.
  m.def("median_square_distance(Tensor z, Tensor rows, SymInt max_rows, int seed) -> Tensor");
  // Within-class scatter, between-class scatter, class means, counts; float64 and int64.
  m.def("scatter(Tensor x, Tensor labels, SymInt num_classes) -> (Tensor, Tensor, Tensor, Tensor)");
  // base + sum_t u_t diag(coefficients_t) v_t' with u (batch, terms, m, rank), v (batch, terms, n, rank).
  m.def("low_rank_sum(Tensor u, Tensor v, Tensor coefficients, Tensor? base) -> Tensor");
}
