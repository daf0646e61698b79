// Products and solves with a triangular matrix for few rows: the cost is reading the matrix once.
#pragma once

#include <algorithm>

#include "cpu/triangular.h"
#include "route.h"

namespace invcap::cpu {

// The largest number of rows for these kernels: for more, matrix products are faster.
constexpr int64_t kFewRows = 4;

// Whether these kernels are used for this number of rows.
inline bool is_few(int64_t rows) {
  const Way way = forced_way();
  return way == Way::fused || (way != Way::tiles && rows <= kFewRows);
}

// Indices from `begin` to before `end`.
struct Range {
  int64_t begin, end;
};

// The strict `triangle` of a row-major matrix t, (n, n), with a constant diagonal.
template <class T>
struct Strict {
  View<const T> matrix;
  int64_t n;
  Triangle triangle;
  T diagonal;

  // Row min(i, n - 1), since several rows are read at a time.
  const T* row(int64_t i) const { return matrix.row(std::min(i, n - 1)); }
  // The columns of row i that lie in the triangle.
  Range columns(int64_t i) const {
    return triangle == Triangle::lower ? Range{0, i} : Range{i + 1, n};
  }
};

// out = t b and out = t^T b for each row b of `rows`, (count, n); on all threads.
template <class T>
void multiply_few(const Strict<T>& t, View<const T> rows, View<T> out, int64_t count);
template <class T>
void multiply_transposed_few(const Strict<T>& t, View<const T> rows, View<T> out, int64_t count);

// b = t^-1 b and b = t^-T b for each row b of `rows`, (count, n), in place.
template <class T>
void solve_few(const Strict<T>& t, View<T> rows, int64_t count);
template <class T>
void solve_transposed_few(const Strict<T>& t, View<T> rows, int64_t count);

// Like `weight_gradient`, but gz, gh, h and x are all rows, (count, n); out is (n, n).
template <class T>
void weight_gradient_few(View<const T> gz, View<const T> h, T sign_h, View<const T> gh,
                         View<const T> x, T sign_x, int64_t count, View<T> out);

}  // namespace invcap::cpu
