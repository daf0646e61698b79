#include "cuda/lu_leaky.h"

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <c10/cuda/CUDAGraphsC10Utils.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <limits>
#include <map>
#include <mutex>

#include "cuda/launchers.h"
#include "cuda/tensor.h"
#include "dense.h"

namespace invcap::cuda {
namespace {

// float32 goes to tensor cores where the user lets matrix products do so; three TF32 products keep
// the accuracy of float32, so that nothing is lost by it.
Problem problem_of(const at::Tensor& rows) {
  using namespace at;
  const auto precision = globalContext().float32Precision(Float32Backend::CUDA, Float32Op::MATMUL);
  return {scalar_of(rows), precision == Float32Precision::TF32, rows.size(0),
          static_cast<int>(rows.size(1)), c10::cuda::getCurrentCUDAStream().stream()};
}

at::TensorOptions wide_options(const at::Tensor& a) {
  return a.options().dtype(a.scalar_type() == at::kDouble ? at::kDouble : at::kFloat);
}

// A cache of the inverted diagonal blocks of weights. They are compared with the weights before
// each use (invert_blocks.cuh), so a stale entry costs time but gives no wrong result. A graph that
// is being captured gets memory of its own, since it may outlive the entry.
at::Tensor inverse_of(const at::Tensor& lu, const Problem& problem, double diagonal) {
  constexpr size_t kMost = 128;  // entries, after which the cache is cleared
  using Key = std::tuple<void*, int, Scalar, double, void*, int>;
  static std::mutex mutex;
  static auto& places = *new std::map<Key, at::Tensor>;  // outlives the CUDA context
  const auto make = [&] {
    return at::full({inverse_elements(problem.n)}, std::numeric_limits<double>::quiet_NaN(),
                    wide_options(lu));
  };
  if (c10::cuda::currentStreamCaptureStatusMayInitCtx() != c10::cuda::CaptureStatus::None) {
    return make();
  }
  const std::lock_guard lock(mutex);
  if (places.size() >= kMost) places.clear();
  auto& place = places[{pointer(lu), problem.n, problem.scalar, diagonal, problem.stream,
                        static_cast<int>(lu.get_device())}];
  if (!place.defined()) place = make();
  return place;
}

// Layers for a launch: contiguous, alive as long as this is, and ready for solves if need be.
struct Layers {
  std::vector<at::Tensor> tensors;
  std::vector<LayerPointers> pointers;

  void add(const at::Tensor& lu, const std::optional<at::Tensor>& bias, double diagonal,
           double negative_slope) {
    const auto weights = tensors.emplace_back(lu.contiguous());
    const auto offsets = tensors.emplace_back(bias ? bias->contiguous() : at::Tensor());
    pointers.push_back({pointer(weights), pointer(offsets), nullptr, diagonal, negative_slope});
  }

  void invert(const Problem& problem) {
    for (size_t i = 0; i < pointers.size(); ++i) {
      tensors.push_back(inverse_of(tensors[2 * i], problem, pointers[i].diagonal));
      pointers[i].inverse = pointer(tensors.back());
    }
    invert_blocks(problem, pointers.data(), static_cast<int>(pointers.size()));
  }
};

Layers layer_of(const Problem& problem, const at::Tensor& lu, const std::optional<at::Tensor>& bias,
                double diagonal, double negative_slope, bool solve) {
  Layers layers;
  layers.add(lu, bias, diagonal, negative_slope);
  if (solve) layers.invert(problem);
  return layers;
}

std::tuple<at::Tensor, at::Tensor> weight_gradient_of(const Problem& problem, double sign,
                                                      const at::Tensor& gz, const at::Tensor& h,
                                                      const at::Tensor& gh, const at::Tensor& x) {
  auto glu = at::empty({problem.n, problem.n}, x.options());
  auto gb = at::empty({problem.n}, x.options());
  const auto work = at::empty({gradient_work_elements(problem)}, wide_options(x));
  weight_gradient(problem, sign, pointer(gz), pointer(h), pointer(gh), pointer(x), pointer(glu),
                  pointer(gb), pointer(work));
  return {glu, gb};
}

}  // namespace

std::tuple<at::Tensor, at::Tensor> lu_leaky(const at::Tensor& x, const at::Tensor& lu,
                                            const std::optional<at::Tensor>& bias, double diagonal,
                                            double negative_slope) {
  const c10::cuda::CUDAGuard guard(x.device());
  const auto problem = problem_of(x);
  const auto layers = layer_of(problem, lu, bias, diagonal, negative_slope, /*solve=*/false);
  auto y = at::empty_like(x), h = at::empty_like(x);
  forward(problem, layers.pointers.data(), 1, pointer(x), pointer(y), pointer(h));
  return {y, h};
}

std::tuple<at::Tensor, at::Tensor> lu_leaky_inverse(const at::Tensor& y, const at::Tensor& lu,
                                                    const std::optional<at::Tensor>& bias,
                                                    double diagonal, double negative_slope) {
  const c10::cuda::CUDAGuard guard(y.device());
  const auto problem = problem_of(y);
  if (!solves_on_chip(problem)) {
    return dense::lu_leaky_inverse(y, lu, bias, diagonal, negative_slope);
  }
  const auto layers = layer_of(problem, lu, bias, diagonal, negative_slope, /*solve=*/true);
  auto x = at::empty_like(y), h = at::empty_like(y);
  inverse(problem, layers.pointers.data(), 1, pointer(y), pointer(x), pointer(h));
  return {x, h};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> lu_leaky_backward(
    const at::Tensor& gy, const at::Tensor& x, const at::Tensor& y, const at::Tensor& h,
    const at::Tensor& lu, double diagonal, double negative_slope) {
  const c10::cuda::CUDAGuard guard(x.device());
  const auto problem = problem_of(x);
  const auto layers = layer_of(problem, lu, {}, diagonal, negative_slope, /*solve=*/false);
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
  const auto problem = problem_of(x);
  at::Tensor gy, gz, gh;
  if (solves_on_chip(problem)) {
    for (auto* rows : {&gy, &gz, &gh}) *rows = at::empty_like(x);
    const auto layers = layer_of(problem, lu, {}, diagonal, negative_slope, /*solve=*/true);
    inverse_backward(problem, layers.pointers[0], pointer(gx), pointer(y), pointer(gy), pointer(gz),
                     pointer(gh));
  } else {
    std::tie(gy, gz, gh) = dense::lu_leaky_inverse_rows(gx, y, lu, diagonal, negative_slope);
  }
  auto [glu, gb] = weight_gradient_of(problem, -1, gz, h, gh, x);
  return {gy, glu, gb};
}

at::Tensor lu_leaky_network(const at::Tensor& rows, const std::vector<at::Tensor>& lu,
                            const std::vector<std::optional<at::Tensor>>& bias,
                            const std::vector<double>& diagonals,
                            const std::vector<double>& negative_slopes, bool inverse) {
  const c10::cuda::CUDAGuard guard(rows.device());
  const auto problem = problem_of(rows);
  if (inverse && !solves_on_chip(problem)) {
    auto found = rows;
    for (size_t i = lu.size(); i-- > 0;) {
      std::tie(found, std::ignore) =
          dense::lu_leaky_inverse(found, lu[i], bias[i], diagonals[i], negative_slopes[i]);
    }
    return found;
  }
  Layers layers;
  for (size_t i = 0; i < lu.size(); ++i) {
    layers.add(lu[i], bias[i], diagonals[i], negative_slopes[i]);
  }
  if (inverse) layers.invert(problem);
  auto out = at::empty_like(rows);
  const auto h = inverse || products_on_chip(problem) ? at::Tensor() : at::empty_like(rows);
  const auto run = inverse ? &cuda::inverse : &cuda::forward;
  run(problem, layers.pointers.data(), static_cast<int>(lu.size()), pointer(rows), pointer(out),
      pointer(h));
  return out;
}

}  // namespace invcap::cuda
