// Signatures and handles of the operators torch.ops.invcap, for calls from other operators.
#pragma once

#include <ATen/core/List.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include <optional>
#include <tuple>

namespace invcap {

using Tensor = const at::Tensor&;
using Optional = std::optional<at::Tensor>;
using Optionals = c10::List<Optional>;
using Doubles = at::ArrayRef<double>;
using Pair = std::tuple<at::Tensor, at::Tensor>;
using Triple = std::tuple<at::Tensor, at::Tensor, at::Tensor>;

using Layer = Pair(Tensor, Tensor, const Optional&, double, double);
using LayerBackward = Triple(Tensor, Tensor, Tensor, Tensor, Tensor, double, double);
using Network = at::Tensor(Tensor, at::TensorList, const Optionals&, Doubles, Doubles, bool);

template <class Signature>
c10::TypedOperatorHandle<Signature> find(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

// y = f(x) or, if `inverse`, x = f^-1(y).
inline const auto& layer_operator(bool inverse) {
  static const auto forward = find<Layer>("invcap::lu_leaky");
  static const auto back = find<Layer>("invcap::lu_leaky_inverse");
  return inverse ? back : forward;
}

inline const auto& layer_backward_operator(bool inverse) {
  static const auto forward = find<LayerBackward>("invcap::lu_leaky_backward");
  static const auto back = find<LayerBackward>("invcap::lu_leaky_inverse_backward");
  return inverse ? back : forward;
}

inline const auto& network_operator() {
  static const auto network = find<Network>("invcap::lu_leaky_network");
  return network;
}

}  // namespace invcap
