#include "cuda/tensors.h"

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "cuda/lu_leaky.h"
#include "cuda/squared_error.h"

namespace invcap::cuda {
namespace {

Scalar scalar_of(const at::Tensor& a) {
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

void* current_stream() { return c10::cuda::getCurrentCUDAStream().stream(); }

// float32 goes to tensor cores where the user lets matrix products do so; three TF32 products keep
// the accuracy of float32, so that nothing is lost by it.
Problem problem_of(const at::Tensor& rows, double diagonal) {
  return {scalar_of(rows),
          at::globalContext().float32Precision(at::Float32Backend::CUDA, at::Float32Op::MATMUL) ==
              at::Float32Precision::TF32,
          rows.size(0),
          static_cast<int>(rows.size(1)),
          diagonal,
          current_stream()};
}

at::TensorOptions wide_options(const at::Tensor& a) {
  return a.options().dtype(a.scalar_type() == at::kDouble ? at::kDouble : at::kFloat);
}

void* pointer(const at::Tensor& a) { return a.defined() ? a.data_ptr() : nullptr; }

// Layers whose tensors stay alive with it, contiguous; diagonal blocks inverted for solves.
struct Layers {
  std::vector<at::Tensor> tensors;
  std::vector<LayerPointers> pointers;

  void add(const Problem& problem, const at::Tensor& lu, const std::optional<at::Tensor>& bias,
           double negative_slope, bool solve) {
    const auto weights = keep(lu.contiguous());
    const auto offsets = keep(bias ? bias->contiguous() : at::Tensor());
    at::Tensor inverse;
    if (solve) {
      inverse = keep(at::empty({inverse_elements(problem.n)}, wide_options(lu)));
      invert_blocks(problem, pointer(weights), pointer(inverse));
    }
    pointers.push_back({pointer(weights), pointer(offsets), pointer(inverse), negative_slope});
  }

 private:
  at::Tensor keep(at::Tensor a) { return tensors.emplace_back(std::move(a)); }
};

// What a direction needs beside its results, if rows are too long to stay on the chip.
at::Tensor work_of(const at::Tensor& rows, int64_t elements) {
  return at::empty({elements}, wide_options(rows));
}

std::tuple<at::Tensor, at::Tensor> weight_gradient_of(const Problem& problem, double sign,
                                                      const at::Tensor& gz, const at::Tensor& h,
                                                      const at::Tensor& gh, const at::Tensor& x) {
  auto glu = at::empty({problem.n, problem.n}, x.options());
  auto gb = at::empty({problem.n}, x.options());
  const auto work = work_of(x, gradient_work_elements(problem));
  weight_gradient(problem, sign, pointer(gz), pointer(h), pointer(gh), pointer(x), pointer(glu),
                  pointer(gb), pointer(work));
  return {glu, gb};
}

}  // namespace

std::tuple<at::Tensor, at::Tensor> lu_leaky(const at::Tensor& x, const at::Tensor& lu,
                                            const std::optional<at::Tensor>& bias, double diagonal,
                                            double negative_slope) {
  const c10::cuda::CUDAGuard guard(x.device());
  const auto problem = problem_of(x, diagonal);
  Layers layers;
  layers.add(problem, lu, bias, negative_slope, /*solve=*/false);
  auto y = at::empty_like(x), h = at::empty_like(x);
  forward(problem, layers.pointers.data(), 1, pointer(x), pointer(y), pointer(h), nullptr);
  return {y, h};
}

std::tuple<at::Tensor, at::Tensor> lu_leaky_inverse(const at::Tensor& y, const at::Tensor& lu,
                                                    const std::optional<at::Tensor>& bias,
                                                    double diagonal, double negative_slope) {
  const c10::cuda::CUDAGuard guard(y.device());
  const auto problem = problem_of(y, diagonal);
  Layers layers;
  layers.add(problem, lu, bias, negative_slope, /*solve=*/true);
  auto x = at::empty_like(y), h = at::empty_like(y);
  const auto work = work_of(y, solve_work_elements(problem));
  inverse(problem, layers.pointers.data(), 1, pointer(y), pointer(x), pointer(h), pointer(work));
  return {x, h};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> lu_leaky_backward(
    const at::Tensor& gy, const at::Tensor& x, const at::Tensor& y, const at::Tensor& h,
    const at::Tensor& lu, double diagonal, double negative_slope) {
  const c10::cuda::CUDAGuard guard(x.device());
  const auto problem = problem_of(x, diagonal);
  Layers layers;
  layers.add(problem, lu, std::nullopt, negative_slope, /*solve=*/false);
  auto gx = at::empty_like(x);
  const auto gz = at::empty_like(x), gh = at::empty_like(x);
  backward(problem, layers.pointers[0], pointer(gy), pointer(y), pointer(gx), pointer(gz),
           pointer(gh));
  auto [glu, gb] = weight_gradient_of(problem, 1, gz, h, gh, x);
  return {gx, glu, gb};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> lu_leaky_inverse_backward(
    const at::Tensor& gx, const at::Tensor& x, const at::Tensor& y, const at::Tensor& h,
    const at::Tensor& lu, double diagonal, double negative_slope) {
  const c10::cuda::CUDAGuard guard(x.device());
  const auto problem = problem_of(x, diagonal);
  Layers layers;
  layers.add(problem, lu, std::nullopt, negative_slope, /*solve=*/true);
  auto gy = at::empty_like(x);
  const auto gz = at::empty_like(x), gh = at::empty_like(x);
  const auto work = work_of(x, solve_work_elements(problem));
  inverse_backward(problem, layers.pointers[0], pointer(gx), pointer(y), pointer(gy), pointer(gz),
                   pointer(gh), pointer(work));
  auto [glu, gb] = weight_gradient_of(problem, -1, gz, h, gh, x);
  return {gy, glu, gb};
}

at::Tensor lu_leaky_network(const at::Tensor& rows, const std::vector<at::Tensor>& lu,
                            const std::vector<std::optional<at::Tensor>>& bias, double diagonal,
                            const std::vector<double>& negative_slopes, bool inverse) {
  const c10::cuda::CUDAGuard guard(rows.device());
  const auto problem = problem_of(rows, diagonal);
  Layers layers;
  for (size_t i = 0; i < lu.size(); ++i) {
    layers.add(problem, lu[i], bias[i], negative_slopes[i], inverse);
  }
  auto out = at::empty_like(rows);
  const auto work =
      work_of(rows, inverse ? solve_work_elements(problem) : product_work_elements(problem));
  const auto run = inverse ? &cuda::inverse : &cuda::forward;
  run(problem, layers.pointers.data(), static_cast<int>(lu.size()), pointer(rows), pointer(out),
      nullptr, pointer(work));
  return out;
}

std::tuple<at::Tensor, at::Tensor> weighted_squared_error(const at::Tensor& predicted,
                                                          const at::Tensor& noise,
                                                          const at::Tensor& weight) {
  const c10::cuda::CUDAGuard guard(predicted.device());
  auto loss = at::empty_like(weight), gradient = at::empty_like(predicted);
  const int64_t pictures = predicted.size(0);
  squared_error(scalar_of(predicted), pictures, pictures ? predicted.numel() / pictures : 0,
                pointer(predicted), pointer(noise), pointer(weight), pointer(loss),
                pointer(gradient), current_stream());
  return {loss, gradient};
}

}  // namespace invcap::cuda
