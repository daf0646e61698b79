// The operators torch.ops.invcap as C++ sees them: their signatures, and a way to call them.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include <optional>
#include <tuple>

namespace invcap {

using Tensor = const at::Tensor&;
using Optional = std::optional<at::Tensor>;
using OptionalList = c10::List<Optional>;
using Doubles = at::ArrayRef<double>;
using Pair = std::tuple<at::Tensor, at::Tensor>;
using Triple = std::tuple<at::Tensor, at::Tensor, at::Tensor>;

using Layer = Pair(Tensor, Tensor, const Optional&, double, double);
using LayerBackward = Triple(Tensor, Tensor, Tensor, Tensor, Tensor, double, double);
using Network = at::Tensor(Tensor, at::TensorList, const OptionalList&, Doubles, Doubles, bool);

template <class Signature>
c10::TypedOperatorHandle<Signature> find(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

// y = f(x) or, if `inverse`, x = f^-1(y).
inline const c10::TypedOperatorHandle<Layer>& layer(bool inverse) {
  static const auto forward = find<Layer>("invcap::lu_leaky");
  static const auto backward = find<Layer>("invcap::lu_leaky_inverse");
  return inverse ? backward : forward;
}

}  // namespace invcap
