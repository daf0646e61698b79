// What the launchers take of a tensor.
#pragma once

#include <ATen/core/Tensor.h>

#include "cuda/launchers.h"

namespace invcap::cuda {

inline Scalar scalar_of(const at::Tensor& a) {
  switch (a.scalar_type()) {
    case at::kDouble:
      return Scalar::float64;
    case at::kHalf:
      return Scalar::float16;
    case at::kBFloat16:
      return Scalar::bfloat16;
    default:
      return Scalar::float32;
  }
}

inline void* pointer(const at::Tensor& a) { return a.defined() ? a.data_ptr() : nullptr; }

}  // namespace invcap::cuda
