// The loss of prompt inversion on a GPU: raw pointers and a stream, no torch.
#pragma once

#include "cuda/lu_leaky.h"

namespace invcap::cuda {

// loss[p] = weight[p] |predicted[p] - noise[p]|^2 for pictures of `size` elements, and its gradient
// by predicted. weight, loss: (pictures,), float (double for float64). One pass over the data.
void squared_error(Scalar scalar, int64_t pictures, int64_t size, const void* predicted,
                   const void* noise, const void* weight, void* loss, void* gradient, void* stream);

}  // namespace invcap::cuda
