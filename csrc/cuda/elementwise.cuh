// gz = m gy, where backward is not fused: one thread an element, bandwidth-bound.
#pragma once

#include "cuda/scalar.cuh"

namespace invcap::cuda {

constexpr int kElementThreads = 256;

template <class T>
__global__ void __launch_bounds__(kElementThreads)
    times_m(const T* gy, const T* y, T* gz, int64_t count, Wide<T> slope) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kElementThreads + threadIdx.x;
  if (i >= count) return;
  const Wide<T> value = widen(gy[i]);
  gz[i] = narrow<T>(widen(y[i]) < 0 ? value * slope : value);
}

}  // namespace invcap::cuda
