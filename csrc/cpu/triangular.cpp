#include "cpu/triangular.h"

#include <ATen/ATen.h>

namespace invcap::cpu {
namespace {

// Wide enough for a matrix product to run at full speed, narrow enough to leave little of the zero
// half inside the diagonal blocks. Measured best of 64, 96 and 128 at n = 384 and 1024.
constexpr int64_t kBlock = 64;

// One batched call for all diagonal blocks of full size, and one for what remains.
BlockTriangular prepare(const at::Tensor& t, Triangle triangle, double diagonal, bool inverted) {
  BlockTriangular result{t, triangle, {}};
  const int64_t step = t.stride(0) + t.stride(1);
  const auto append = [&](int64_t begin, int64_t count, int64_t size) {
    if (count == 0 || size == 0) return;
    auto batch = t.as_strided({count, size, size}, {size * step, t.stride(0), t.stride(1)},
                              t.storage_offset() + begin * step);
    batch = triangle == Triangle::lower ? batch.tril(-1) : batch.triu(1);
    batch.diagonal(0, 1, 2).fill_(diagonal);
    if (inverted) {
      // In float64: as accurate as the rest of the solve however a block is conditioned.
      const auto wide = batch.to(at::kDouble);
      const auto eye = at::eye(size, wide.options()).expand_as(wide);
      batch = at::linalg_solve_triangular(wide, eye, triangle == Triangle::upper).to(t.dtype());
    }
    for (const auto& block : batch.unbind()) {
      result.blocks.push_back({begin, begin + size, block});
      begin += size;
    }
  };
  const int64_t n = t.size(0), full = n / kBlock;
  append(0, full, kBlock);
  append(full * kBlock, 1, n % kBlock);
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
  return {rows.slice(1, begin, end),
          factor.t.slice(0, begin, end).slice(1, block.begin, block.end)};
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
    auto target = out.slice(1, block.begin, block.end);
    at::mm_out(target, x.slice(1, block.begin, block.end), block.diagonal);
    const auto [rows, t] = coupled(x, factor, block);
    if (rows.size(1) > 0) target.addmm_(rows, t);
  }
}

void solve(const at::Tensor& y, const BlockTriangular& inverted, const at::Tensor& out) {
  for (const auto& block : inverted.blocks) {
    auto rest = y.slice(1, block.begin, block.end);
    const auto [rows, t] = coupled(out, inverted, block);
    if (rows.size(1) > 0) rest = at::addmm(rest, rows, t, /*beta=*/1, /*alpha=*/-1);
    auto target = out.slice(1, block.begin, block.end);
    at::mm_out(target, rest, block.diagonal);
  }
}

}  // namespace invcap::cpu
