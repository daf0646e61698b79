// The weighted squared error between predicted and true noise of each image, on a CPU.
#pragma once

#include <ATen/core/Tensor.h>

#include <tuple>

namespace invcap::cpu {

// loss = weight |predicted - noise|^2, gradient = 2 weight (predicted - noise); returns both.
// predicted, noise: (images, size) of one dtype; weight: (images,), float32 or float64.
std::tuple<at::Tensor, at::Tensor> weighted_squared_error(const at::Tensor& predicted,
                                                          const at::Tensor& noise,
                                                          const at::Tensor& weight);

}  // namespace invcap::cpu
