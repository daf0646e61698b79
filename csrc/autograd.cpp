// First derivatives of the layer and its inverse, as autograd functions: no step through Python.
//
// Their backward passes are operators too; functional.py has the derivatives of those.
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

namespace invcap {
namespace {

using torch::autograd::variable_list;
using Optional = std::optional<at::Tensor>;
using Pair = std::tuple<at::Tensor, at::Tensor>;
using Triple = std::tuple<at::Tensor, at::Tensor, at::Tensor>;
using Tensor = const at::Tensor&;
using Forward = Pair(Tensor, Tensor, const Optional&, double, double);
using Backward = Triple(Tensor, Tensor, Tensor, Tensor, Tensor, double, double);

template <class Signature>
c10::TypedOperatorHandle<Signature> find(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

// y = f(x) or, if `inverse`, x = f^-1(y).
template <bool inverse>
struct LuLeaky : torch::autograd::Function<LuLeaky<inverse>> {
  static variable_list forward(torch::autograd::AutogradContext* ctx, Tensor rows, Tensor lu,
                               const Optional& bias, double diagonal, double negative_slope) {
    static const auto run =
        find<Forward>(inverse ? "invcap::lu_leaky_inverse" : "invcap::lu_leaky");
    const at::AutoDispatchBelowAutograd below;
    auto [result, h] = run.call(rows, lu, bias, diagonal, negative_slope);
    ctx->mark_non_differentiable({h});
    inverse ? ctx->save_for_backward({result, rows, h, lu})
            : ctx->save_for_backward({rows, result, h, lu});
    ctx->saved_data["biased"] = bias.has_value();
    ctx->saved_data["diagonal"] = diagonal;
    ctx->saved_data["negative_slope"] = negative_slope;
    return {result, h};
  }

  static variable_list backward(torch::autograd::AutogradContext* ctx, const variable_list& grads) {
    static const auto run =
        find<Backward>(inverse ? "invcap::lu_leaky_inverse_backward" : "invcap::lu_leaky_backward");
    const auto saved = ctx->get_saved_variables();
    const auto call = [&] {
      return run.call(grads[0], saved[0], saved[1], saved[2], saved[3],
                      ctx->saved_data["diagonal"].toDouble(),
                      ctx->saved_data["negative_slope"].toDouble());
    };
    const auto without_graph = [&] {
      const at::AutoDispatchBelowAutograd below;
      return call();
    };
    auto [grad, glu, gb] = at::GradMode::is_enabled() ? call() : without_graph();
    const bool biased = ctx->saved_data["biased"].toBool();
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
