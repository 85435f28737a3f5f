// The functions behind the schemas of csrc/ops.cpp. Each library of kernels implements all of them.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <tuple>

// The namespace of the operations in torch. The emulated CUDA kernels of the tests are in another one.
#ifndef AWPF_LIBRARY
#define AWPF_LIBRARY awpf
#endif

namespace awpf {

using torch::stable::Tensor;

Tensor rbf_sums(Tensor z, Tensor rows, std::optional<Tensor> columns, Tensor gamma, std::optional<Tensor> centre,
                bool allow_fp16);
Tensor rbf_sums_backward(Tensor grad, Tensor z, Tensor rows, std::optional<Tensor> columns, Tensor gamma,
                         std::optional<Tensor> centre, bool allow_fp16);
Tensor rbf_weighted_sums(Tensor z, Tensor rows, Tensor gamma, Tensor coefficients, Tensor constant, bool allow_fp16);
std::tuple<Tensor, Tensor> rbf_sums_and_gradient(Tensor z, Tensor rows, Tensor gamma, Tensor coefficients,
                                                 bool allow_fp16);
Tensor rbf_permutation_sums(Tensor z, Tensor rows, Tensor gamma, int64_t permutations, int64_t seed, bool allow_fp16);
Tensor median_square_distance(Tensor z, Tensor rows, int64_t max_rows, int64_t seed);
std::tuple<Tensor, Tensor, Tensor, Tensor> scatter(Tensor x, Tensor labels, int64_t num_classes);
Tensor low_rank_sum(Tensor u, Tensor v, Tensor coefficients, std::optional<Tensor> base);

}  // namespace awpf
