// The layer y = leaky_relu(L U x + b) with W = L U as one matrix, by the matrix products of torch's
// libraries, on any device and in any dtype. Rows, names and results are those of cpu/lu_leaky.h.
//
// For n much below the number of rows it costs what a dense layer costs: W takes 2/3 n^3 flops
// more, and its gradient 4/3 n^3. No h is computed.
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

// U, (n, n), with the diagonal.
at::Tensor upper(const at::Tensor& lu, double diagonal);

}  // namespace invcap::dense
