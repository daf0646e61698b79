// cpu/squared_error.h for tensors on a GPU, on the current stream of their device.
#pragma once

#include <ATen/core/Tensor.h>

#include <tuple>

namespace invcap::cuda {

std::tuple<at::Tensor, at::Tensor> weighted_squared_error(const at::Tensor& predicted,
                                                          const at::Tensor& noise,
                                                          const at::Tensor& weight);

}  // namespace invcap::cuda
