// csrc/cuda/{lu_leaky,squared_error}.cpp for tensors on a CPU, with the harness in place of a GPU.
#include <c10/cuda/CUDAGraphsC10Utils.h>
#include <pybind11/stl.h>
#include <torch/csrc/utils/pybind.h>

#include "cuda/lu_leaky.h"
#include "cuda/squared_error.h"

PYBIND11_MODULE(TORCH_EXTENSION_NAME, module) {
  module.def("lu_leaky", &invcap::cuda::lu_leaky);
  module.def("lu_leaky_inverse", &invcap::cuda::lu_leaky_inverse);
  module.def("lu_leaky_backward", &invcap::cuda::lu_leaky_backward);
  module.def("lu_leaky_inverse_backward", &invcap::cuda::lu_leaky_inverse_backward);
  module.def("lu_leaky_network", &invcap::cuda::lu_leaky_network);
  module.def("weighted_squared_error", &invcap::cuda::weighted_squared_error);
  module.def("capture", [](bool active) {
    using c10::cuda::CaptureStatus;
    c10::cuda::capture_status = active ? CaptureStatus::Active : CaptureStatus::None;
  });
}
