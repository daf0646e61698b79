// Launcher of the loss of prompt inversion.
#include "cuda/dispatch.cuh"
#include "cuda/launchers.h"
#include "cuda/squared_error.cuh"

namespace invcap::cuda {

void squared_error(Scalar scalar, int64_t images, int64_t size, const void* predicted,
                   const void* noise, const void* weight, void* loss, void* gradient,
                   void* stream) {
  if (images == 0) return;
  for_scalar(scalar, [&](auto type) {
    using T = typename decltype(type)::type;
    const auto* a = as<T>(predicted);
    const auto* b = as<T>(noise);
    auto* slope = as<T>(gradient);
    const int n = static_cast<int>(size % kWidth<T>);  // what counts for alignment
    const bool aligned = is_aligned(a, n) && is_aligned(b, n) && is_aligned(slope, n);
    const auto start = [&](auto kernel) {
      launch(kernel, {static_cast<unsigned>(images)}, kThreads, kSquaredErrorBytes<T>,
             static_cast<cudaStream_t>(stream), a, b, as<Wide<T>>(weight), size, as<Wide<T>>(loss),
             slope);
    };
    if (aligned) {
      start(squared_error<T, kWidth<T>>);
    } else {
      start(squared_error<T, 1>);
    }
  });
}

}  // namespace invcap::cuda
