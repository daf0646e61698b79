// Products and solves with one triangular matrix, by blocks of columns, on ATen's matrix products.
//
// Column block J of x t needs, beside x's own J, only the blocks K that t's triangle couples to it:
//
//     (x t)[:, J] = sum over K of x[:, K] t[K, J] + x[:, J] t[J, J]      K > J (lower), K < J
//     (upper)
//
// A solve is the same sum with the K that are already solved moved to the other side and t[J, J]
// inverted beforehand, so that it, too, is nothing but matrix products. Rows are independent: a
// caller may hand tiles of rows to as many threads as it likes.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

namespace invcap::cpu {

enum class Triangle { lower, upper };

// A triangular matrix made ready for `multiply` or, with its diagonal blocks inverted, for `solve`.
struct BlockTriangular {
  struct Block {
    int64_t begin, end;
    at::Tensor diagonal;  // (end - begin, end - begin), dense
  };
  at::Tensor t;
  Triangle triangle;
  std::vector<Block> blocks;
};

// t: (n, n) with any strides, so that a transposed view costs nothing; only its strict `triangle`
// is read, and its diagonal counts as the constant `diagonal`.
BlockTriangular factor(const at::Tensor& t, Triangle triangle, double diagonal);
BlockTriangular inverted_factor(const at::Tensor& t, Triangle triangle, double diagonal);

// out = x t. x, out: (rows, n), not the same. Cost: rows n^2 flops, half of a dense product.
void multiply(const at::Tensor& x, const BlockTriangular& factor, const at::Tensor& out);

// out = y t^-1 with an inverted factor. y, out: (rows, n), not the same. Cost: as multiply.
void solve(const at::Tensor& y, const BlockTriangular& inverted, const at::Tensor& out);

}  // namespace invcap::cpu
