// invcap_ext._C: checks arguments, flattens leading dimensions to rows and picks the back end.
#include <ATen/ATen.h>
#include <pybind11/stl.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/utils/pybind.h>

#include <cmath>

#include "cpu/lu_leaky.h"
#ifdef INVCAP_CUDA_VERSION
#include "cuda/tensors.h"
#endif

namespace invcap {
namespace {

#ifdef INVCAP_CUDA_VERSION
constexpr bool kWithCuda = true;
namespace gpu = cuda;
#else
constexpr bool kWithCuda = false;
namespace gpu = cpu;  // never called: check_arguments lets no tensor of a GPU through
#endif

using Optional = std::optional<at::Tensor>;
using Pair = std::tuple<at::Tensor, at::Tensor>;
using Triple = std::tuple<at::Tensor, at::Tensor, at::Tensor>;

void check_settings(double diagonal, double negative_slope) {
  TORCH_CHECK_VALUE(std::isfinite(diagonal) && diagonal != 0,
                    "diagonal must be finite and not zero, got ", diagonal);
  TORCH_CHECK_VALUE(std::isfinite(negative_slope) && negative_slope > 0,
                    "negative_slope must be finite and greater than zero, got ", negative_slope);
}

void check_like(const char* name, const at::Tensor& tensor, const char* reference_name,
                const at::Tensor& reference) {
  TORCH_CHECK_TYPE(tensor.scalar_type() == reference.scalar_type(), name,
                   " must have the dtype of ", reference_name, ", ", reference.scalar_type(),
                   ", got ", tensor.scalar_type());
  TORCH_CHECK_VALUE(tensor.device() == reference.device(), name, " must be on the device of ",
                    reference_name, ", ", reference.device(), ", got ", tensor.device());
}

// What both directions ask of their input (named `name`), lu and bias.
void check_arguments(const char* name, const at::Tensor& input, const at::Tensor& lu,
                     const Optional& bias, double diagonal, double negative_slope) {
  check_settings(diagonal, negative_slope);
  const auto dtype = lu.scalar_type();
  TORCH_CHECK_TYPE(
      dtype == at::kFloat || dtype == at::kDouble || dtype == at::kHalf || dtype == at::kBFloat16,
      "lu must be float32, float64, float16 or bfloat16, got ", dtype);
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
  TORCH_CHECK_NOT_IMPLEMENTED(
      lu.is_cpu() || (lu.is_cuda() && kWithCuda), "lu is on ", lu.device(),
      ", but invcap_ext was built for the CPU", kWithCuda ? " and CUDA only; " : " alone; ",
      "build it for CUDA with: INVCAP_CUDA=1 pip install --no-build-isolation --force-reinstall "
      "--no-deps .");
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

Pair lu_leaky(const at::Tensor& x, const at::Tensor& lu, const Optional& bias, double diagonal,
              double negative_slope) {
  check_arguments("x", x, lu, bias, diagonal, negative_slope);
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

using Backward = Triple (*)(const at::Tensor&, const at::Tensor&, const at::Tensor&,
                            const at::Tensor&, const at::Tensor&, double, double);

template <Backward on_cpu, Backward on_gpu>
Triple backward(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& y,
                const at::Tensor& h, const at::Tensor& lu, double diagonal, double negative_slope) {
  check_arguments("x", x, lu, std::nullopt, diagonal, negative_slope);
  check_same_shape("grad", grad, x);
  check_same_shape("y", y, x);
  check_same_shape("h", h, x);
  const auto back_end = lu.is_cuda() ? on_gpu : on_cpu;
  auto [input_grad, glu, gb] =
      back_end(rows(grad), rows(x), rows(y), rows(h), lu, diagonal, negative_slope);
  return {input_grad.view(x.sizes()), glu, gb};
}

#ifdef INVCAP_CUDA_VERSION
at::Tensor lu_leaky_network(const at::Tensor& input, const std::vector<at::Tensor>& lu,
                            const std::vector<Optional>& bias, double diagonal,
                            const std::vector<double>& negative_slopes, bool inverse) {
  TORCH_CHECK_VALUE(!lu.empty() && lu.size() == bias.size() && lu.size() == negative_slopes.size(),
                    "lu, bias and negative_slopes must be of one length, not 0, got ", lu.size(),
                    ", ", bias.size(), " and ", negative_slopes.size());
  for (size_t i = 0; i < lu.size(); ++i) {
    check_arguments("rows", input, lu[i], bias[i], diagonal, negative_slopes[i]);
  }
  TORCH_CHECK_VALUE(input.is_cuda(), "rows must be on a GPU, got ", input.device());
  return cuda::lu_leaky_network(rows(input), lu, bias, diagonal, negative_slopes, inverse)
      .view(input.sizes());
}

Pair weighted_squared_error(const at::Tensor& predicted, const at::Tensor& noise,
                            const at::Tensor& weight) {
  TORCH_CHECK_VALUE(predicted.is_cuda() && predicted.dim() > 0,
                    "predicted must be (pictures, ...) on a GPU, got ", predicted.sizes(), " on ",
                    predicted.device());
  check_same_shape("noise", noise, predicted);
  const auto wide = predicted.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  TORCH_CHECK_VALUE(weight.dim() == 1 && weight.size(0) == predicted.size(0) &&
                        weight.scalar_type() == wide && weight.device() == predicted.device(),
                    "weight must be (pictures,) = (", predicted.size(0), ",) of ", wide, " on ",
                    predicted.device(), ", got ", weight.sizes(), " of ", weight.scalar_type(),
                    " on ", weight.device());
  return cuda::weighted_squared_error(predicted.contiguous(), noise.contiguous(),
                                      weight.contiguous());
}
#endif

py::dict build_info() {
  using namespace py::literals;
#ifdef INVCAP_CUDA_VERSION
  const py::object cuda_version = py::str(INVCAP_CUDA_VERSION);
#else
  const py::object cuda_version = py::none();
#endif
  return py::dict("torch"_a = INVCAP_TORCH_VERSION, "cuda"_a = cuda_version,
                  "compiler"_a = INVCAP_COMPILER);
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, module) {
  py::register_local_exception_translator([](std::exception_ptr error) {
    if (error) torch::translate_exception_to_python(error);
  });
  module.def("build_info", &build_info);
  const py::call_guard<py::gil_scoped_release> no_gil;
  module.def("check_settings", &check_settings);
  module.def("lu_leaky", &lu_leaky, no_gil);
  module.def("lu_leaky_inverse", &lu_leaky_inverse, no_gil);
  module.def("lu_leaky_backward", &backward<cpu::lu_leaky_backward, gpu::lu_leaky_backward>,
             no_gil);
  module.def("lu_leaky_inverse_backward",
             &backward<cpu::lu_leaky_inverse_backward, gpu::lu_leaky_inverse_backward>, no_gil);
#ifdef INVCAP_CUDA_VERSION
  module.def("lu_leaky_network", &lu_leaky_network, no_gil);
  module.def("weighted_squared_error", &weighted_squared_error, no_gil);
#endif
}

}  // namespace invcap
