// Products and solves with a triangular matrix for so few rows that reading it once is what costs.
#pragma once

#include <algorithm>

#include "cpu/triangular.h"
#include "route.h"

namespace invcap::cpu {

// At most so many rows are few: with more, matrix products are faster.
constexpr int64_t kFewRows = 4;

// Whether so many rows are taken as they are.
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

  // Row i; beyond the last one, that again, for those who read several at a time.
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

// As `weight_gradient`, of rows as they are: gz, gh, h and x are (count, n), out is (n, n).
template <class T>
void weight_gradient_few(View<const T> gz, View<const T> h, T sign_h, View<const T> gh,
                         View<const T> x, T sign_x, int64_t count, View<T> out);

}  // namespace invcap::cpu
