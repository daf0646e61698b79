// The first derivative of a network that saves only its output for the backward pass.
//
// From the last layer to the first, each layer's input is computed from its output by the layer's
// inverse (by its forward pass, if the network was run in the inverse direction). This also gives
// the h that weight gradients need. Gradients of frozen weights are not computed. Memory: n numbers
// per row of the batch, for any depth.
#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <algorithm>

#include "dense.h"
#include "frozen.h"
#include "operators.h"

namespace invcap {
namespace {

using torch::autograd::variable_list;

// On a CPU, a backward pass processes this many numbers at a time, to use little memory.
constexpr int64_t kNumbersAtOnce = 1 << 19;

// The layers of a network, first to last; a bias is an undefined tensor where there is none.
struct Layers {
  variable_list lu, bias;
  std::vector<double> diagonals, negative_slopes;
  bool inverse;
  std::vector<bool> learns;  // whether a gradient is wanted: of each lu, then of each bias
};

// Gradients of the network's input, of each lu and of each bias that exists, in this order;
// undefined where none is wanted.
variable_list gradients(const Layers& layers, at::Tensor output, at::Tensor grad) {
  const size_t depth = layers.lu.size();
  variable_list found(1 + 2 * depth);
  for (size_t step = 0; step < depth; ++step) {
    const size_t i = layers.inverse ? step : depth - 1 - step;
    const double diagonal = layers.diagonals[i], slope = layers.negative_slopes[i];
    const auto& lu = layers.lu[i];
    const auto bias = layers.bias[i].defined() ? Optional(layers.bias[i]) : std::nullopt;
    const bool learns = layers.learns[i], learns_bias = layers.learns[depth + i];
    at::Tensor input, h, gb;
    // The input of a frozen layer is needed only as the output of the layer before it.
    if (learns || layers.inverse || step + 1 < depth) {
      std::tie(input, h) = layer_operator(!layers.inverse).call(output, lu, bias, diagonal, slope);
    }
    const auto& x = layers.inverse ? output : input;
    const auto& y = layers.inverse ? input : output;
    if (learns) {
      // A layer that took the dense way has no h.
      if (h.sym_sizes() != x.sym_sizes()) h = at::matmul(x, dense::upper(lu, diagonal).t());
      std::tie(grad, found[1 + i], gb) =
          layer_backward_operator(layers.inverse).call(grad, x, y, h, lu, diagonal, slope);
    } else {
      at::Tensor gz;
      std::tie(grad, gz) = frozen_backward(layers.inverse, grad, y, lu, diagonal, slope);
      if (learns_bias) gb = bias_gradient(layers.inverse, gz, lu);
    }
    if (learns_bias) found[1 + depth + i] = gb;
    output = input;
  }
  found[0] = grad;
  for (size_t i = depth; i-- > 0;) {
    if (!layers.bias[i].defined()) found.erase(found.begin() + 1 + depth + i);
  }
  return found;
}

// As `gradients`, for some rows at a time.
variable_list gradients_in_parts(const Layers& layers, at::Tensor output, at::Tensor grad) {
  const int64_t n = output.sym_size(-1).guard_int(__FILE__, __LINE__);
  const int64_t count = output.sym_numel().guard_int(__FILE__, __LINE__) / n;
  const int64_t some = std::max<int64_t>(1, kNumbersAtOnce / n);
  const auto input_grad = at::empty_like(output, at::MemoryFormat::Contiguous);
  variable_list total;
  for (int64_t first = 0; first < count; first += some) {
    const auto part = [&](Tensor whole) {
      return whole.reshape({count, n}).slice(0, first, std::min(first + some, count));
    };
    auto found = gradients(layers, part(output), part(grad));
    part(input_grad).copy_(found[0]);
    if (first == 0) {
      // Sums of half-precision gradients are kept in float32, and rounded once.
      const auto dtype = at::promote_types(output.scalar_type(), at::kFloat);
      for (Tensor gradient : found) {
        total.push_back(gradient.defined() ? gradient.to(dtype) : gradient);
      }
    } else {
      for (size_t i = 1; i < total.size(); ++i) {
        if (total[i].defined()) total[i].add_(found[i]);
      }
    }
  }
  for (auto& gradient : total) {
    if (gradient.defined()) gradient = gradient.to(output.scalar_type());
  }
  total[0] = input_grad;
  return total;
}

struct Recomputed : torch::autograd::Function<Recomputed> {
  // `biases` are the tensors in `bias`: autograd finds tensors in a TensorList only.
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, Tensor rows, at::TensorList lu,
                            at::TensorList /*biases*/, const Optionals& bias, Doubles diagonals,
                            Doubles negative_slopes, bool inverse) {
    const at::AutoDispatchBelowAutograd below;
    auto result = network_operator().call(rows, lu, bias, diagonals, negative_slopes, inverse);
    variable_list saved{result};
    saved.insert(saved.end(), lu.begin(), lu.end());
    for (const Optional& one : bias) saved.push_back(one.value_or(at::Tensor()));
    ctx->save_for_backward(std::move(saved));
    ctx->saved_data["diagonals"] = diagonals.vec();
    ctx->saved_data["negative_slopes"] = negative_slopes.vec();
    ctx->saved_data["inverse"] = inverse;
    return result;
  }

  static variable_list backward(torch::autograd::AutogradContext* ctx, const variable_list& grads) {
    // The dtype is that of the forward pass, even if autocast is on now.
    const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
    std::optional<at::AutoDispatchBelowAutograd> without_graph;
    if (!at::GradMode::is_enabled()) without_graph.emplace();
    const auto saved = ctx->get_saved_variables();
    const auto lu = saved.begin() + 1, bias = lu + saved.size() / 2;
    std::vector<bool> learns;
    size_t edge = 0;
    for (auto a = lu; a != saved.end(); ++a) {
      learns.push_back(a->defined() && ctx->needs_input_grad(++edge));
    }
    const Layers layers{{lu, bias},
                        {bias, saved.end()},
                        ctx->saved_data["diagonals"].toDoubleVector(),
                        ctx->saved_data["negative_slopes"].toDoubleVector(),
                        ctx->saved_data["inverse"].toBool(),
                        learns};
    const bool many = saved[0].is_cpu() && saved[0].sym_numel() > kNumbersAtOnce;
    auto found = (many ? gradients_in_parts : gradients)(layers, saved[0], grads[0]);
    found.resize(found.size() + 4);  // no gradients of arguments that are not tensors
    return found;
  }
};

at::Tensor recomputed(Tensor rows, at::TensorList lu, const Optionals& bias, Doubles diagonals,
                      Doubles negative_slopes, bool inverse) {
  if (!at::GradMode::is_enabled()) {
    const at::AutoDispatchBelowAutograd below;
    return network_operator().call(rows, lu, bias, diagonals, negative_slopes, inverse);
  }
  variable_list biases;
  for (const Optional& one : bias) {
    if (one) biases.push_back(*one);
  }
  return Recomputed::apply(rows, lu, at::TensorList(biases), bias, diagonals, negative_slopes,
                           inverse);
}

}  // namespace

TORCH_LIBRARY_IMPL(invcap, Autograd, library) { library.impl("lu_leaky_network", &recomputed); }

}  // namespace invcap
