// The functions of cpu/lu_leaky.h for tensors on a GPU, with the same arguments and results, and
// those that a GPU has beside them. All run on the current stream of the tensors' device.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>
#include <vector>

namespace invcap::cuda {

std::tuple<at::Tensor, at::Tensor> lu_leaky(const at::Tensor& x, const at::Tensor& lu,
                                            const std::optional<at::Tensor>& bias, double diagonal,
                                            double negative_slope);

std::tuple<at::Tensor, at::Tensor> lu_leaky_inverse(const at::Tensor& y, const at::Tensor& lu,
                                                    const std::optional<at::Tensor>& bias,
                                                    double diagonal, double negative_slope);

std::tuple<at::Tensor, at::Tensor, at::Tensor> lu_leaky_backward(
    const at::Tensor& gy, const at::Tensor& x, const at::Tensor& y, const at::Tensor& h,
    const at::Tensor& lu, double diagonal, double negative_slope);

std::tuple<at::Tensor, at::Tensor, at::Tensor> lu_leaky_inverse_backward(
    const at::Tensor& gx, const at::Tensor& x, const at::Tensor& y, const at::Tensor& h,
    const at::Tensor& lu, double diagonal, double negative_slope);

// A whole network in one launch, where rows fit on the chip: rows (count, n) through all layers, or
// back through their inverses.
at::Tensor lu_leaky_network(const at::Tensor& rows, const std::vector<at::Tensor>& lu,
                            const std::vector<std::optional<at::Tensor>>& bias, double diagonal,
                            const std::vector<double>& negative_slopes, bool inverse);

// (loss, gradient) of weight |predicted - noise|^2, picture by picture: predicted, noise
// (pictures, ...), weight (pictures,) of float32 (float64 for float64), as loss is.
std::tuple<at::Tensor, at::Tensor> weighted_squared_error(const at::Tensor& predicted,
                                                          const at::Tensor& noise,
                                                          const at::Tensor& weight);

}  // namespace invcap::cuda
