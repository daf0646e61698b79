// The element by element steps around the products and solves of long rows, bandwidth-bound:
// one thread an element, out[row, column] = f(in[row, column], other[row or 0, column]).
#pragma once

#include "cuda/scalar.cuh"

namespace invcap::cuda {

constexpr int kElementThreads = 256;

enum class Element {
  convert,         // in
  before_inverse,  // leaky^-1(in) - b
  times_m,         // in m(y)
  over_m           // in / m(y)
};

template <Element element, class In, class Out, class T>
__global__ void __launch_bounds__(kElementThreads)
    elementwise(const In* in, const T* other, Out* out, int64_t count, int n, Wide<T> slope) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kElementThreads + threadIdx.x;
  if (i >= count) return;
  Wide<T> value = widen(in[i]);
  if constexpr (element == Element::before_inverse) {
    value = leaky(value, 1 / slope) - (other ? widen(other[i % n]) : 0);
  } else if constexpr (element == Element::times_m) {
    if (widen(other[i]) < 0) value *= slope;
  } else if constexpr (element == Element::over_m) {
    if (widen(other[i]) < 0) value /= slope;
  }
  out[i] = narrow<Out>(value);
}

}  // namespace invcap::cuda
