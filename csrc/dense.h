// The layer y = leaky_relu(L U x + b) with W = L U as one matrix, by torch's matrix products, on
// any device and in any dtype. Shapes, names and results are those of cpu/lu_leaky.h.
//
// Beside a dense layer, W costs 2/3 n^3 flops and its gradient 4/3 n^3: little if there are many
// more than n rows. h is not computed.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>

namespace invcap::dense {

// Returns (y, W).
std::tuple<at::Tensor, at::Tensor> lu_leaky(const at::Tensor& x, const at::Tensor& lu,
                                            const std::optional<at::Tensor>& bias, double diagonal,
                                            double negative_slope);

// gz = m gy, dW = gz^T x; returns (gx, glu, gb) = (gz W, strict_lower(dW U^T) +
// strict_upper(L^T dW), sum gz).
std::tuple<at::Tensor, at::Tensor, at::Tensor> lu_leaky_backward(
    const at::Tensor& gy, const at::Tensor& x, const at::Tensor& y, const at::Tensor& weight,
    const at::Tensor& lu, double diagonal, double negative_slope);

// By the triangular solves of torch's libraries, half precision in float32; returns (x, h).
std::tuple<at::Tensor, at::Tensor> lu_leaky_inverse(const at::Tensor& y, const at::Tensor& lu,
                                                    const std::optional<at::Tensor>& bias,
                                                    double diagonal, double negative_slope);

// The row-wise part of its backward: gh = gx U^-1, gz = gh L^-1; returns (gz / m, gz, gh).
std::tuple<at::Tensor, at::Tensor, at::Tensor> lu_leaky_inverse_rows(const at::Tensor& gx,
                                                                     const at::Tensor& y,
                                                                     const at::Tensor& lu,
                                                                     double diagonal,
                                                                     double negative_slope);

// U, (n, n), with the diagonal.
at::Tensor upper(const at::Tensor& lu, double diagonal);

}  // namespace invcap::dense
