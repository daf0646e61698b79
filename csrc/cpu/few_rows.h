// Products and solves with a triangular matrix for so few rows that reading it once is what costs.
#pragma once

#include "cpu/triangular.h"

namespace invcap::cpu {

// At most so many rows are few: with more, matrix products are faster.
constexpr int64_t kFewRows = 4;

// The strict `triangle` of a row-major matrix t, (n, n), with a constant diagonal.
template <class T>
struct Strict {
  View<const T> matrix;
  int64_t n;
  Triangle triangle;
  T diagonal;

  // The columns [begin, end) of row i that lie in the triangle.
  int64_t begin(int64_t i) const { return triangle == Triangle::lower ? 0 : i + 1; }
  int64_t end(int64_t i) const { return triangle == Triangle::lower ? i : n; }
};

// out = t b and out = t^T b for each row b of `rows`, (count, n); on all threads.
template <class T>
void multiply_few(const Strict<T>& t, View<const T> rows, View<T> out, int64_t count);
template <class T>
void multiply_transposed_few(const Strict<T>& t, View<const T> rows, View<T> out, int64_t count);

// b = t^-1 b and b = t^-T b for each row b of `rows`, (count, n); each number waits for the last.
template <class T>
void solve_few(const Strict<T>& t, View<T> rows, int64_t count);
template <class T>
void solve_transposed_few(const Strict<T>& t, View<T> rows, int64_t count);

}  // namespace invcap::cpu
