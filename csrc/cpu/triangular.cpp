#include "cpu/triangular.h"

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/as_strided_native.h>

#include <algorithm>

namespace invcap::cpu {
namespace {

// Wide enough for a matrix product to run at full speed, narrow enough to leave little of the zero
// half inside the diagonal blocks. Measured best of 64, 96 and 128 at n = 384 and 1024.
constexpr int64_t kBlock = 64;

// a[row : row + rows, column : column + columns], for a part of what two slices cost.
at::Tensor window(const at::Tensor& a, int64_t row, int64_t rows, int64_t column, int64_t columns) {
  return at::native::as_strided_tensorimpl(
      a, {rows, columns}, a.strides(),
      a.storage_offset() + row * a.stride(0) + column * a.stride(1));
}

at::Tensor columns(const at::Tensor& a, int64_t begin, int64_t end) {
  return window(a, 0, a.size(0), begin, end - begin);
}

// A triangle as a lower one: an upper triangle is its transpose's.
template <class T>
struct Lower {
  const T* data;
  int64_t row_stride, column_stride;
  double diagonal;

  double operator()(int64_t i, int64_t j) const {
    return static_cast<double>(data[i * row_stride + j * column_stride]);
  }
};

// out[i, j] = t[i, j], of `size` rows; out is zero at the start.
template <class T, class Out>
void copy(const Lower<T>& t, int64_t size, const Out& out) {
  for (int64_t i = 0; i < size; ++i) {
    for (int64_t j = 0; j < i; ++j) out(i, j) = static_cast<T>(t(i, j));
    out(i, i) = static_cast<T>(t.diagonal);
  }
}

// out = t^-1 by forward substitution, row by row: t[i, i] out[i] = e_i - sum over k < i of
// t[i, k] out[k]. In float64: as accurate as the rest of a solve however a block is conditioned.
template <class T, class Out>
void invert(const Lower<T>& t, int64_t size, const Out& out) {
  double inverse[kBlock][kBlock] = {};
  for (int64_t i = 0; i < size; ++i) {
    for (int64_t k = 0; k < i; ++k) {
      const double factor = -t(i, k) / t.diagonal;
      for (int64_t j = 0; j <= k; ++j) inverse[i][j] += factor * inverse[k][j];
    }
    inverse[i][i] = 1 / t.diagonal;
    for (int64_t j = 0; j <= i; ++j) out(i, j) = static_cast<T>(inverse[i][j]);
  }
}

BlockTriangular prepare(const at::Tensor& t, Triangle triangle, double diagonal, bool inverted) {
  const int64_t n = t.size(0), count = (n + kBlock - 1) / kBlock;
  const auto dense = at::zeros({count * kBlock, kBlock}, t.options());
  BlockTriangular result{t, triangle, {}};
  for (int64_t block = 0; block < count; ++block) {
    const int64_t begin = block * kBlock, end = std::min(begin + kBlock, n), size = end - begin;
    result.blocks.push_back({begin, end, window(dense, block * kBlock, size, 0, size)});
  }
  const bool lower = triangle == Triangle::lower;
  const int64_t row_stride = t.stride(lower ? 0 : 1), column_stride = t.stride(lower ? 1 : 0);
  AT_DISPATCH_FLOATING_TYPES(t.scalar_type(), "prepare", [&] {
    const scalar_t* source = t.const_data_ptr<scalar_t>();
    scalar_t* target = dense.mutable_data_ptr<scalar_t>();
    const int64_t grain = inverted ? 1 : count;  // copies take less time than waking a thread
    at::parallel_for(0, count, grain, [&](int64_t first, int64_t last) {
      for (int64_t block = first; block < last; ++block) {
        const int64_t begin = block * kBlock, size = std::min(kBlock, n - begin);
        const Lower<scalar_t> from{source + begin * (row_stride + column_stride), row_stride,
                                   column_stride, diagonal};
        scalar_t* to = target + block * kBlock * kBlock;
        const auto out = [&](int64_t i, int64_t j) -> scalar_t& {
          return lower ? to[i * kBlock + j] : to[j * kBlock + i];
        };
        inverted ? invert(from, size, out) : copy(from, size, out);
      }
    });
  });
  return result;
}

// What the columns [begin, end) of `rows`, on the strict triangle's side of a block, meet in t.
struct Coupled {
  at::Tensor rows, t;
};

Coupled coupled(const at::Tensor& rows, const BlockTriangular& factor,
                const BlockTriangular::Block& block) {
  const bool lower = factor.triangle == Triangle::lower;
  const int64_t begin = lower ? block.end : 0;
  const int64_t end = lower ? rows.size(1) : block.begin;
  return {columns(rows, begin, end),
          window(factor.t, begin, end - begin, block.begin, block.end - block.begin)};
}

}  // namespace

BlockTriangular factor(const at::Tensor& t, Triangle triangle, double diagonal) {
  return prepare(t, triangle, diagonal, /*inverted=*/false);
}

BlockTriangular inverted_factor(const at::Tensor& t, Triangle triangle, double diagonal) {
  auto result = prepare(t, triangle, diagonal, /*inverted=*/true);
  if (triangle == Triangle::lower) std::reverse(result.blocks.begin(), result.blocks.end());
  return result;
}

void multiply(const at::Tensor& x, const BlockTriangular& factor, const at::Tensor& out) {
  for (const auto& block : factor.blocks) {
    auto target = columns(out, block.begin, block.end);
    at::mm_out(target, columns(x, block.begin, block.end), block.diagonal);
    const auto [rows, t] = coupled(x, factor, block);
    if (rows.size(1) > 0) target.addmm_(rows, t);
  }
}

void solve(const at::Tensor& y, const BlockTriangular& inverted, const at::Tensor& out) {
  for (const auto& block : inverted.blocks) {
    auto rest = columns(y, block.begin, block.end);
    const auto [rows, t] = coupled(out, inverted, block);
    if (rows.size(1) > 0) rest = at::addmm(rest, rows, t, /*beta=*/1, /*alpha=*/-1);
    auto target = columns(out, block.begin, block.end);
    at::mm_out(target, rest, block.diagonal);
  }
}

}  // namespace invcap::cpu
