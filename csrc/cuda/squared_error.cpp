#include "cuda/squared_error.h"

#include <ATen/ATen.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "cuda/launchers.h"
#include "cuda/tensor.h"

namespace invcap::cuda {

std::tuple<at::Tensor, at::Tensor> weighted_squared_error(const at::Tensor& predicted,
                                                          const at::Tensor& noise,
                                                          const at::Tensor& weight) {
  const c10::cuda::CUDAGuard guard(predicted.device());
  auto loss = at::empty_like(weight), gradient = at::empty_like(predicted);
  squared_error(scalar_of(predicted), predicted.size(0), predicted.size(1), pointer(predicted),
                pointer(noise), pointer(weight), pointer(loss), pointer(gradient),
                c10::cuda::getCurrentCUDAStream().stream());
  return {loss, gradient};
}

}  // namespace invcap::cuda
