// Products and solves with one triangular matrix t, on tiles, whose columns are rows of the batch.
//
// A tile is (n, width), so that t, as stored in `lu`, is the left operand of every product, without
// packing. Block row I of t b depends on b's rows I and on its rows J < I (lower) or J > I (upper):
//
//     (t b)[I] = t[I, I] b[I] + sum over J of t[I, J] b[J]
//
// A solve subtracts the same sum over solved J, then multiplies by the inverse of t[I, I], which is
// computed beforehand. So it consists of matrix products only.
#pragma once

#include <ATen/core/Tensor.h>

#include "cpu/product.h"

namespace invcap::cpu {

// The largest width of a tile: wider ones do not fit into a cache with their operands.
constexpr int64_t kMostColumns = 32;

enum class Triangle { lower, upper };

// The strict `triangle` of a matrix, with a constant diagonal; `blocks`: its blocks on the
// diagonal, (count, kBlock, kBlock), dense, or minus their inverses.
template <class T>
struct Triangular {
  View<const T> matrix;
  int64_t n;
  Triangle triangle;
  at::Tensor blocks;
};

// For `multiply`, and for `solve`. matrix: (n, n), its rows contiguous.
template <class T>
Triangular<T> factor(const at::Tensor& matrix, Triangle triangle, double diagonal);
template <class T>
Triangular<T> inverted_factor(const at::Tensor& matrix, Triangle triangle, double diagonal);

// b = t b, in place: a block is computed before those that it depends on. b: (n, width). Cost:
// n^2 width flops, half of a dense product.
template <class T>
void multiply(const Triangular<T>& t, View<T> b, int64_t width);

// b = -t^-1 b with an inverted factor; the sign makes all products additions. Cost: as multiply.
template <class T>
void solve(const Triangular<T>& t, View<T> b, int64_t width);

}  // namespace invcap::cpu
