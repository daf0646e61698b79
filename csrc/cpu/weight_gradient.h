// The gradient of a packed pair of triangles: strict_lower(gz^T h) + strict_upper(gh^T x).
#pragma once

#include <ATen/core/Tensor.h>

#include "cpu/product.h"

namespace invcap::cpu {

// Adds up sign_h strict_lower(gz h) + sign_x strict_upper(gh x), (n, n), skipping the halves that
// are zero. gz, gh: (n, rows), the gradients as columns; h, x: (rows, n), contiguous.
template <class T>
at::Tensor weight_gradient(View<const T> gz, const at::Tensor& h, T sign_h, View<const T> gh,
                           const at::Tensor& x, T sign_x);

}  // namespace invcap::cpu
