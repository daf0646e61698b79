// Products and solves with one triangular matrix t, on tiles of rows that stand as columns.
//
// A tile is (n, width): then t, as it lies in `lu`, is the left operand of every product, and
// nothing of it is packed. Block row I of t b needs, beside b's own rows I, those rows J that the
// triangle couples to them, J < I (lower) or J > I (upper):
//
//     (t b)[I] = t[I, I] b[I] + sum over J of t[I, J] b[J]
//
// A solve is the same with the J that are already solved moved to the other side and t[I, I]
// inverted beforehand, so that it, too, is nothing but matrix products.
#pragma once

#include <ATen/core/Tensor.h>

#include "cpu/product.h"

namespace invcap::cpu {

// Columns of a tile, at most: more of them fit into no cache together with what they meet.
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

// b = t b, in place: a block is done before those that it is coupled to. b: (n, width). Cost:
// n^2 width flops, half of a dense product.
template <class T>
void multiply(const Triangular<T>& t, View<T> b, int64_t width);

// b = -t^-1 b with an inverted factor: minus, so that its products are added. Cost: as multiply.
template <class T>
void solve(const Triangular<T>& t, View<T> b, int64_t width);

}  // namespace invcap::cpu
