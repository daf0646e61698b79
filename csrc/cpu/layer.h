// Shared by both passes of a layer: tensors as views, the activation, and the two triangles of lu.
#pragma once

#include <ATen/core/Tensor.h>

#include "cpu/few_rows.h"
#include "cpu/triangular.h"

namespace invcap::cpu {

// The accumulation type of a row: its own, or float32 for float16 and bfloat16.
inline at::Tensor wide(const at::Tensor& a) {
  return at::isReducedFloatingType(a.scalar_type()) ? a.to(at::kFloat) : a;
}

template <class T>
View<const T> read(const at::Tensor& a) {
  return {a.const_data_ptr<T>(), a.size(1)};
}

template <class T>
View<T> write(const at::Tensor& a) {
  return {a.mutable_data_ptr<T>(), a.size(1)};
}

// Branch-free, so that it is vectorized.
template <class T>
T leaky(T value, T slope, T sign) {
  const T scaled = slope * value;
  return sign < 0 ? scaled : value;
}

// A triangle of lu, for few rows.
template <class T>
Strict<T> strict(const at::Tensor& lu, Triangle triangle, double diagonal) {
  return {read<T>(lu), lu.size(0), triangle, static_cast<T>(diagonal)};
}

// Both triangles of lu, prepared for tiles.
template <class T>
struct Factors {
  Triangular<T> lower, upper;

  Factors(const at::Tensor& lu, double diagonal, bool inverse)
      : lower((inverse ? inverted_factor<T> : factor<T>)(lu, Triangle::lower, diagonal)),
        upper((inverse ? inverted_factor<T> : factor<T>)(lu, Triangle::upper, diagonal)) {}
};

}  // namespace invcap::cpu
