// cpu/lu_leaky.h for tensors on a GPU, with the same arguments and results, on the current stream
// of their device.
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

// In one launch, where rows fit on the chip.
at::Tensor lu_leaky_network(const at::Tensor& rows, const std::vector<at::Tensor>& lu,
                            const std::vector<std::optional<at::Tensor>>& bias,
                            const std::vector<double>& diagonals,
                            const std::vector<double>& negative_slopes, bool inverse);

}  // namespace invcap::cuda
