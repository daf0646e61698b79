// Under autocast the operators run in its dtype, as torch's own matrix products do. Casts are
// differentiable, so float32 parameters get float32 gradients; float64 is not cast.
#include <ATen/autocast_mode.h>
#include <torch/library.h>

#include "operators.h"

namespace invcap {
namespace {

using at::autocast::cached_cast;
using c10::DeviceType;

// Casts tensors to the autocast dtype of a device; autocast is off in this object's lifetime.
template <DeviceType device>
struct Autocast {
  const c10::impl::ExcludeDispatchKeyGuard outside{
      at::autocast::get_autocast_dispatch_key_from_device_type(device)};
  const at::ScalarType dtype = at::autocast::get_autocast_dtype(device);

  template <class T>
  auto operator()(const T& argument) const {
    return cached_cast(dtype, argument, device);
  }

  Optionals operator()(const Optionals& tensors) const {
    Optionals cast;
    for (const Optional& tensor : tensors) cast.push_back((*this)(tensor));
    return cast;
  }
};

template <DeviceType device, bool inverse>
Pair layer(Tensor rows, Tensor lu, const Optional& bias, double diagonal, double negative_slope) {
  const Autocast<device> cast;
  return layer_operator(inverse).call(cast(rows), cast(lu), cast(bias), diagonal, negative_slope);
}

template <DeviceType device>
at::Tensor network(Tensor rows, at::TensorList lu, const Optionals& bias, Doubles diagonals,
                   Doubles negative_slopes, bool inverse) {
  const Autocast<device> cast;
  return network_operator().call(cast(rows), cast(lu), cast(bias), diagonals, negative_slopes,
                                 inverse);
}

template <DeviceType device>
void implement(torch::Library& library) {
  library.impl("lu_leaky", &layer<device, /*inverse=*/false>);
  library.impl("lu_leaky_inverse", &layer<device, /*inverse=*/true>);
  library.impl("lu_leaky_network", &network<device>);
}

}  // namespace

TORCH_LIBRARY_IMPL(invcap, AutocastCPU, library) { implement<DeviceType::CPU>(library); }
TORCH_LIBRARY_IMPL(invcap, AutocastCUDA, library) { implement<DeviceType::CUDA>(library); }

}  // namespace invcap
