// The schemas of all operations. They are part of the public contract (README, "Versions").
#include "common/ops.h"

#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(AWPF_LIBRARY, m) {
  // S[p, g, h], float64: the sum of mean_s exp(-gamma[p, s] |z_i - z_j|^2) over all rows i of row group g and all rows
  // j of column group h of problem p. A group is a range of rows of z (its first row and one past its last): `rows` is
  // (p, G, 2), `columns` is (p, H, 2). Without `columns` the row groups are summed against each other.
  // With `allow_fp16`, devices that multiply float16 faster round the centred float32 points to float16.
  m.def(
      "rbf_sums(Tensor z, Tensor rows, Tensor? columns, Tensor gamma, Tensor? centre, bool allow_fp16) -> "
      "Tensor");
  // The gradient of sum_pgh grad[p, g, h] S[p, g, h] with respect to z, in the type of z.
  m.def(
      "rbf_sums_backward(Tensor grad, Tensor z, Tensor rows, Tensor? columns, Tensor gamma, Tensor? centre, "
      "bool allow_fp16) -> Tensor");
  // (p,): constant[p] + sum_gh coefficients[p, g, h] S[p, g, h]; float64 if z is float64, else float32.
  m.def(
      "rbf_weighted_sums(Tensor z, Tensor rows, Tensor gamma, Tensor coefficients, Tensor constant, "
      "bool allow_fp16) -> Tensor");
  // The sums S and the gradient (float64 if z is float64, else float32) of sum_pgh coefficients[p, g, h] S[p, g, h], in
  // one pass over the pairs. Blocks whose coefficient is zero are skipped, so their sums are not computed.
  m.def(
      "rbf_sums_and_gradient(Tensor z, Tensor rows, Tensor gamma, Tensor coefficients, bool allow_fp16) -> "
      "(Tensor, Tensor)");
  // (p, 1 + permutations, 3): the sums S_xx, S_xy and S_yy under the given split (first) and under random splits.
  m.def(
      "rbf_permutation_sums(Tensor z, Tensor rows, Tensor gamma, SymInt permutations, int seed, "
      "bool allow_fp16) -> Tensor");
  // (p,): the lower median of the squared distances of some pairs of the pooled rows, or of max_rows of them, chosen by
  // seed (common/median_pairs.h).
  m.def("median_square_distance(Tensor z, Tensor rows, SymInt max_rows, int seed) -> Tensor");
  // Within-class scatter, between-class scatter and class means (float64), and counts (int64).
  m.def("scatter(Tensor x, Tensor labels, SymInt num_classes) -> (Tensor, Tensor, Tensor, Tensor)");
  // base + sum_t u_t diag(coefficients_t) v_t' with u (batch, terms, m, rank), v (batch, terms, n, rank).
  m.def("low_rank_sum(Tensor u, Tensor v, Tensor coefficients, Tensor? base) -> Tensor");
}
