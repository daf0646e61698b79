// The way back through a layer whose lu is frozen: there is no sum over the batch to find, since
// gz L U is the layer of lu^T, and gx U^-1 L^-1 its inverse.
#pragma once

#include <ATen/ATen.h>

#include "operators.h"

namespace invcap {

// Of y = f(x) or, if `inverse`, x = f^-1(y), from the gradient by the result: that by the rows that
// went in, and gz.
inline Pair frozen_backward(bool inverse, Tensor grad, Tensor y, Tensor lu, double diagonal,
                            double negative_slope) {
  const auto times = [&](double m, Tensor a) { return at::where(y < 0, m * a, a); };
  const auto through = [&](Tensor a) {
    return std::get<0>(layer_operator(inverse).call(a, lu.t(), std::nullopt, diagonal, 1.0));
  };
  const auto gz = inverse ? through(grad) : times(negative_slope, grad);
  return {inverse ? times(1 / negative_slope, gz) : through(gz), gz};
}

inline at::Tensor bias_gradient(bool inverse, Tensor gz, Tensor lu) {
  const auto gb = gz.reshape_symint({-1, lu.sym_size(0)}).sum(0);
  return inverse ? -gb : gb;
}

}  // namespace invcap
