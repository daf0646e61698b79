// First derivatives of the layer and its inverse, as autograd functions in C++, without Python.
//
// The backward passes are operators, too; functional.py has their derivatives.
#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "frozen.h"
#include "operators.h"

namespace invcap {
namespace {

using torch::autograd::variable_list;

// y = f(x), or x = f^-1(y) if `inverse`.
template <bool inverse>
struct LuLeaky : torch::autograd::Function<LuLeaky<inverse>> {
  static variable_list forward(torch::autograd::AutogradContext* ctx, Tensor rows, Tensor lu,
                               const Optional& bias, double diagonal, double negative_slope) {
    const at::AutoDispatchBelowAutograd below;
    auto [result, h] = layer_operator(inverse).call(rows, lu, bias, diagonal, negative_slope);
    ctx->mark_non_differentiable({h});
    inverse ? ctx->save_for_backward({result, rows, h, lu})
            : ctx->save_for_backward({rows, result, h, lu});
    ctx->saved_data["biased"] = bias.has_value();
    ctx->saved_data["diagonal"] = diagonal;
    ctx->saved_data["negative_slope"] = negative_slope;
    return {result, h};
  }

  static variable_list backward(torch::autograd::AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const double diagonal = ctx->saved_data["diagonal"].toDouble();
    const double negative_slope = ctx->saved_data["negative_slope"].toDouble();
    const bool biased = ctx->saved_data["biased"].toBool();
    std::optional<at::AutoDispatchBelowAutograd> without_graph;
    if (!at::GradMode::is_enabled()) without_graph.emplace();
    if (!ctx->needs_input_grad(1)) {
      // The dtype is that of the forward pass, even if autocast is on now.
      const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
      const auto [grad, gz] =
          frozen_backward(inverse, grads[0], saved[1], saved[3], diagonal, negative_slope);
      if (!biased || !ctx->needs_input_grad(2)) return {grad, {}, {}, {}, {}};
      return {grad, {}, bias_gradient(inverse, gz, saved[3]), {}, {}};
    }
    auto [grad, glu, gb] = layer_backward_operator(inverse).call(
        grads[0], saved[0], saved[1], saved[2], saved[3], diagonal, negative_slope);
    return {grad, glu, biased ? gb : at::Tensor(), {}, {}};
  }
};

template <bool inverse>
Pair differentiable(Tensor rows, Tensor lu, const Optional& bias, double diagonal,
                    double negative_slope) {
  const auto results = LuLeaky<inverse>::apply(rows, lu, bias, diagonal, negative_slope);
  return {results[0], results[1]};
}

}  // namespace

TORCH_LIBRARY_IMPL(invcap, Autograd, library) {
  library.impl("lu_leaky", &differentiable</*inverse=*/false>);
  library.impl("lu_leaky_inverse", &differentiable</*inverse=*/true>);
}

}  // namespace invcap
