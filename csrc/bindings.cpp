// The module invcap_ext._C and the operators torch.ops.invcap: checks arguments, flattens leading
// dimensions to rows and calls the CPU or GPU code.
#include <ATen/ATen.h>
#include <pybind11/stl.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/utils/pybind.h>
#include <torch/library.h>

#include <array>
#include <cmath>

#include "cpu/lu_leaky.h"
#include "cpu/squared_error.h"
#ifdef INVCAP_CUDA_VERSION
#include "cuda/lu_leaky.h"
#include "cuda/squared_error.h"
#endif
#include "dense.h"
#include "operators.h"
#include "route.h"

namespace invcap {
namespace {

#ifdef INVCAP_CUDA_VERSION
constexpr const char* kCuda = INVCAP_CUDA_VERSION;
namespace gpu = cuda;
#else
constexpr const char* kCuda = nullptr;
namespace gpu = cpu;  // never called: check_device refuses tensors on a GPU
#endif

void check_settings(double diagonal, double negative_slope) {
  TORCH_CHECK_VALUE(std::isfinite(diagonal) && diagonal != 0,
                    "diagonal must be finite and not zero, got ", diagonal);
  TORCH_CHECK_VALUE(std::isfinite(negative_slope) && negative_slope > 0,
                    "negative_slope must be finite and greater than zero, got ", negative_slope);
}

void check_dense(const char* name, const at::Tensor& tensor) {
  TORCH_CHECK_TYPE(tensor.layout() == at::kStrided, name, " must be a dense (strided) tensor, got ",
                   tensor.layout());
}

void check_like(const char* name, const at::Tensor& tensor, const char* reference_name,
                const at::Tensor& reference) {
  check_dense(name, tensor);
  TORCH_CHECK_TYPE(tensor.scalar_type() == reference.scalar_type(), name,
                   " must have the dtype of ", reference_name, ", ", reference.scalar_type(),
                   ", got ", tensor.scalar_type());
  TORCH_CHECK_VALUE(tensor.device() == reference.device(), name, " must be on the device of ",
                    reference_name, ", ", reference.device(), ", got ", tensor.device());
}

void check_dtype(const char* name, const at::Tensor& tensor) {
  const auto dtype = tensor.scalar_type();
  TORCH_CHECK_TYPE(
      dtype == at::kFloat || dtype == at::kDouble || dtype == at::kHalf || dtype == at::kBFloat16,
      name, " must be float32, float64, float16 or bfloat16, got ", dtype);
}

void check_device(const char* name, const at::Tensor& tensor) {
  TORCH_CHECK_NOT_IMPLEMENTED(
      tensor.is_cpu() || (tensor.is_cuda() && kCuda), name, " is on ", tensor.device(),
      ", but invcap_ext was built for the CPU ",
      kCuda ? "and CUDA only"
            : "only; build it for CUDA "
              "with: INVCAP_CUDA=1 pip install --no-build-isolation --force-reinstall --no-deps .");
}

// Checks the arguments of both directions: the input (named `name`), lu and bias.
void check_arguments(const char* name, const at::Tensor& input, const at::Tensor& lu,
                     const Optional& bias, double diagonal, double negative_slope) {
  check_settings(diagonal, negative_slope);
  check_dense("lu", lu);
  check_dtype("lu", lu);
  TORCH_CHECK_VALUE(lu.dim() == 2 && lu.size(0) == lu.size(1) && lu.size(0) > 0,
                    "lu must have shape (n, n) with n > 0, got ", lu.sizes());
  TORCH_CHECK_VALUE(input.dim() > 0 && input.size(-1) == lu.size(0), name,
                    " must have shape (..., n) with n = ", lu.size(0), " as lu has, got ",
                    input.sizes());
  check_like(name, input, "lu", lu);
  if (bias) {
    TORCH_CHECK_VALUE(bias->dim() == 1 && bias->size(0) == lu.size(0),
                      "bias must have shape (n,) with n = ", lu.size(0), " as lu has, got ",
                      bias->sizes());
    check_like("bias", *bias, "lu", lu);
  }
  check_device("lu", lu);
}

void check_same_shape(const char* name, const at::Tensor& tensor, const at::Tensor& reference) {
  TORCH_CHECK_VALUE(tensor.sizes() == reference.sizes(), name, " must have shape ",
                    reference.sizes(), ", got ", tensor.sizes());
  check_like(name, tensor, "lu", reference);
}

at::Tensor rows(const at::Tensor& a) {
  const int64_t n = a.size(-1);
  return a.reshape({a.numel() / n, n}).contiguous();
}

bool is_dense(const at::Tensor& x, bool keeps_graph) {
  const int64_t n = x.size(-1);
  return x.numel() / n >= dense_rows(n, x.scalar_type(), x.device().type(), keeps_graph);
}

Pair lu_leaky(const at::Tensor& x, const at::Tensor& lu, const Optional& bias, double diagonal,
              double negative_slope) {
  check_arguments("x", x, lu, bias, diagonal, negative_slope);
  if (is_dense(x, /*keeps_graph=*/true)) {
    auto [y, weight] = dense::lu_leaky(rows(x), lu, bias, diagonal, negative_slope);
    return {y.view(x.sizes()), weight.flatten()};
  }
  const auto back_end = lu.is_cuda() ? gpu::lu_leaky : cpu::lu_leaky;
  auto [y, h] = back_end(rows(x), lu, bias, diagonal, negative_slope);
  return {y.view(x.sizes()), h.view(x.sizes())};
}

Pair lu_leaky_inverse(const at::Tensor& y, const at::Tensor& lu, const Optional& bias,
                      double diagonal, double negative_slope) {
  check_arguments("y", y, lu, bias, diagonal, negative_slope);
  const auto back_end = lu.is_cuda() ? gpu::lu_leaky_inverse : cpu::lu_leaky_inverse;
  auto [x, h] = back_end(rows(y), lu, bias, diagonal, negative_slope);
  return {x.view(y.sizes()), h.view(y.sizes())};
}

void check_backward(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& y,
                    const at::Tensor& lu, double diagonal, double negative_slope) {
  check_arguments("x", x, lu, std::nullopt, diagonal, negative_slope);
  check_same_shape("grad", grad, x);
  check_same_shape("y", y, x);
}

// `kept` is h, or flattened L U if the forward pass was dense.
Triple lu_leaky_backward(const at::Tensor& gy, const at::Tensor& x, const at::Tensor& y,
                         const at::Tensor& kept, const at::Tensor& lu, double diagonal,
                         double negative_slope) {
  check_backward(gy, x, y, lu, diagonal, negative_slope);
  const bool has_weight = kept.dim() == 1 && lu.size(0) > 1 && kept.numel() == lu.numel();
  if (has_weight) {
    check_like("h", kept, "lu", lu);
  } else {
    check_same_shape("h", kept, x);
  }
  const auto back_end = has_weight     ? dense::lu_leaky_backward
                        : lu.is_cuda() ? gpu::lu_leaky_backward
                                       : cpu::lu_leaky_backward;
  auto [gx, glu, gb] =
      back_end(rows(gy), rows(x), rows(y), has_weight ? kept.view(lu.sizes()) : rows(kept), lu,
               diagonal, negative_slope);
  return {gx.view(x.sizes()), glu, gb};
}

Triple lu_leaky_inverse_backward(const at::Tensor& gx, const at::Tensor& x, const at::Tensor& y,
                                 const at::Tensor& h, const at::Tensor& lu, double diagonal,
                                 double negative_slope) {
  check_backward(gx, x, y, lu, diagonal, negative_slope);
  check_same_shape("h", h, x);
  const auto back_end =
      lu.is_cuda() ? gpu::lu_leaky_inverse_backward : cpu::lu_leaky_inverse_backward;
  auto [gy, glu, gb] = back_end(rows(gx), rows(x), rows(y), rows(h), lu, diagonal, negative_slope);
  return {gy.view(x.sizes()), glu, gb};
}

at::Tensor lu_leaky_network(const at::Tensor& input, at::TensorList lu, const Optionals& bias,
                            Doubles diagonals, Doubles negative_slopes, bool inverse) {
  const size_t depth = lu.size();
  TORCH_CHECK_VALUE(depth > 0 && bias.size() == depth && diagonals.size() == depth &&
                        negative_slopes.size() == depth,
                    "lu, bias, diagonals and negative_slopes must have one length, not 0, got ",
                    depth, ", ", bias.size(), ", ", diagonals.size(), " and ",
                    negative_slopes.size());
  for (size_t i = 0; i < depth; ++i) {
    check_arguments(inverse ? "y" : "x", input, lu[i], bias[i], diagonals[i], negative_slopes[i]);
  }
  if (!inverse && is_dense(input, /*keeps_graph=*/false)) {
    auto result = rows(input);
    for (size_t i = 0; i < depth; ++i) {
      result = std::get<0>(
          dense::lu_leaky(result, lu[i], bias.get(i), diagonals[i], negative_slopes[i]));
    }
    return result.view(input.sizes());
  }
  const auto back_end = lu[0].is_cuda() ? gpu::lu_leaky_network : cpu::lu_leaky_network;
  return back_end(rows(input), lu.vec(), bias.vec(), diagonals.vec(), negative_slopes.vec(),
                  inverse)
      .view(input.sizes());
}

// weight (images,) |predicted - noise|^2 of each image, and its gradient in predicted
// (images, ...).
Pair weighted_squared_error(const at::Tensor& predicted, const at::Tensor& noise,
                            const at::Tensor& weight) {
  check_dense("predicted", predicted);
  check_dtype("predicted", predicted);
  TORCH_CHECK_VALUE(predicted.dim() > 0, "predicted must have shape (images, ...), got ",
                    predicted.sizes());
  TORCH_CHECK_VALUE(noise.sizes() == predicted.sizes(), "noise must have shape ", predicted.sizes(),
                    ", got ", noise.sizes());
  check_like("noise", noise, "predicted", predicted);
  const int64_t images = predicted.size(0);
  TORCH_CHECK_VALUE(weight.dim() == 1 && weight.size(0) == images,
                    "weight must have shape (images,) with images = ", images, ", got ",
                    weight.sizes());
  const auto wide = predicted.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  TORCH_CHECK_TYPE(weight.scalar_type() == wide, "weight must be ", wide, ", got ",
                   weight.scalar_type());
  TORCH_CHECK_VALUE(weight.device() == predicted.device(), "weight must be on the device of ",
                    "predicted, ", predicted.device(), ", got ", weight.device());
  check_device("predicted", predicted);
  const std::array<int64_t, 2> flat{images, images ? predicted.numel() / images : 0};
  const auto back_end =
      predicted.is_cuda() ? gpu::weighted_squared_error : cpu::weighted_squared_error;
  auto [loss, gradient] = back_end(predicted.reshape(flat).contiguous(),
                                   noise.reshape(flat).contiguous(), weight.contiguous());
  return {loss, gradient.view(predicted.sizes())};
}

py::dict build_info() {
  using namespace py::literals;
  return py::dict("torch"_a = INVCAP_TORCH_VERSION, "cuda"_a = kCuda,
                  "compiler"_a = INVCAP_COMPILER);
}

}  // namespace

// Other files register first derivatives (autograd.cpp, recompute.cpp), autocast (autocast.cpp),
// and in Python fake kernels and second derivatives (functional.py, squared_error.py).
TORCH_LIBRARY(invcap, library) {
  const auto forward = [](const std::string& rows) {
    return "(Tensor " + rows +
           ", Tensor lu, Tensor? bias, float diagonal, float negative_slope) -> (Tensor, Tensor)";
  };
  const std::string backward =
      "(Tensor grad, Tensor x, Tensor y, Tensor h, Tensor lu, float diagonal, "
      "float negative_slope) -> (Tensor, Tensor, Tensor)";
  library.def(("lu_leaky" + forward("x")).c_str());
  library.def(("lu_leaky_inverse" + forward("y")).c_str());
  library.def(("lu_leaky_backward" + backward).c_str());
  library.def(("lu_leaky_inverse_backward" + backward).c_str());
  library.def(
      "lu_leaky_network(Tensor rows, Tensor[] lu, Tensor?[] bias, float[] diagonals, "
      "float[] negative_slopes, bool inverse) -> Tensor");
  library.def(
      "weighted_squared_error(Tensor predicted, Tensor noise, Tensor weight) -> (Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(invcap, CompositeExplicitAutograd, library) {
  library.impl("lu_leaky", &lu_leaky);
  library.impl("lu_leaky_inverse", &lu_leaky_inverse);
  library.impl("lu_leaky_backward", &lu_leaky_backward);
  library.impl("lu_leaky_inverse_backward", &lu_leaky_inverse_backward);
  library.impl("lu_leaky_network", &lu_leaky_network);
  library.impl("weighted_squared_error", &weighted_squared_error);
}

PYBIND11_MODULE(TORCH_EXTENSION_NAME, module) {
  py::register_local_exception_translator([](std::exception_ptr error) {
    if (error) torch::translate_exception_to_python(error);
  });
  module.def("build_info", &build_info);
  module.def("check_settings", &check_settings);
  module.def("dense_rows", [](int64_t n, at::ScalarType dtype, const at::Device& device) {
    return dense_rows(n, dtype, device.type(), /*keeps_graph=*/true);
  });
  module.def("kept_rows", [](int64_t n, at::ScalarType dtype, const at::Device& device) {
    return kept_rows(n, dtype, device.type());
  });
  module.def("force_way", &force_way);
}

}  // namespace invcap
