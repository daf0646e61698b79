#include "cpu/squared_error.h"

#include <ATen/ATen.h>

namespace invcap::cpu {

std::tuple<at::Tensor, at::Tensor> weighted_squared_error(const at::Tensor& predicted,
                                                          const at::Tensor& noise,
                                                          const at::Tensor& weight) {
  const auto difference = predicted.to(weight.scalar_type()) - noise;
  const auto gradient = 2 * weight.unsqueeze(1) * difference;
  return {weight * difference.square().sum(1), gradient.to(predicted.scalar_type())};
}

}  // namespace invcap::cpu
