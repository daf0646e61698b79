// The layer y = leaky_relu(L U x + b) on a CPU: forward, inverse and both backward passes.
//
// Packed storage as in LAPACK's getrf: the strict lower triangle of `lu` is L's, the strict upper
// triangle U's, and both diagonals are the constant `diagonal`. x, y, h and their gradients are
// (rows, n), contiguous, of lu's dtype. float16 and bfloat16 are computed in float32.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>
#include <vector>

namespace invcap::cpu {

// h = x U^T, y = leaky_relu(h L^T + b); returns (y, h).
std::tuple<at::Tensor, at::Tensor> lu_leaky(const at::Tensor& x, const at::Tensor& lu,
                                            const std::optional<at::Tensor>& bias, double diagonal,
                                            double negative_slope);

// h = (leaky_relu^-1(y) - b) L^-T, x = h U^-T; returns (x, h).
std::tuple<at::Tensor, at::Tensor> lu_leaky_inverse(const at::Tensor& y, const at::Tensor& lu,
                                                    const std::optional<at::Tensor>& bias,
                                                    double diagonal, double negative_slope);

// gz = m gy, gh = gz L; returns (gx, glu, gb) = (gh U, strict_lower(gz^T h) + strict_upper(gh^T x),
// sum gz), where m is negative_slope if y < 0, else 1.
std::tuple<at::Tensor, at::Tensor, at::Tensor> lu_leaky_backward(
    const at::Tensor& gy, const at::Tensor& x, const at::Tensor& y, const at::Tensor& h,
    const at::Tensor& lu, double diagonal, double negative_slope);

// gh = gx U^-1, gz = gh L^-1; returns (gy, glu, gb) = (gz / m, -strict_lower(gz^T h) -
// strict_upper(gh^T x), -sum gz).
std::tuple<at::Tensor, at::Tensor, at::Tensor> lu_leaky_inverse_backward(
    const at::Tensor& gx, const at::Tensor& x, const at::Tensor& y, const at::Tensor& h,
    const at::Tensor& lu, double diagonal, double negative_slope);

// All layers, or all their inverses; no intermediate results are kept.
at::Tensor lu_leaky_network(const at::Tensor& rows, const std::vector<at::Tensor>& lu,
                            const std::vector<std::optional<at::Tensor>>& bias,
                            const std::vector<double>& diagonals,
                            const std::vector<double>& negative_slopes, bool inverse);

}  // namespace invcap::cpu
