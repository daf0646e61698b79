// Products of row-major matrices, by oneDNN's micro-kernels, which torch exports, or else by ATen.
// The only file that multiplies matrices.
#pragma once

#include <algorithm>
#include <cstdint>

namespace invcap::cpu {

// A row-major matrix, a view of memory that it does not own.
template <class T>
struct View {
  T* data;
  int64_t stride;

  View at(int64_t row, int64_t column = 0) const { return {data + row * stride + column, stride}; }
  T* row(int64_t index) const { return data + index * stride; }
  operator View<const T>() const { return {data, stride}; }
};

// to = from, (rows, columns)
template <class T>
void copy_rows(View<const T> from, int64_t rows, int64_t columns, View<T> to) {
  for (int64_t i = 0; i < rows; ++i) std::copy_n(from.row(i), columns, to.row(i));
}

// out = a b or, with `add`, out += a b; a: (rows, inner), b: (inner, columns), out: (rows,
// columns). Thread-safe. Fast for any stride of a; b should be contiguous, or its rows an odd
// number of cache lines apart.
void product(int64_t rows, int64_t columns, int64_t inner, View<const float> a, View<const float> b,
             View<float> out, bool add);
void product(int64_t rows, int64_t columns, int64_t inner, View<const double> a,
             View<const double> b, View<double> out, bool add);

}  // namespace invcap::cpu
