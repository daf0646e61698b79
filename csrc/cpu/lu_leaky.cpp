#include "cpu/lu_leaky.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>

#include "cpu/triangular.h"

namespace invcap::cpu {
namespace {

// A thread takes at least so many rows: fewer make its matrix products slow.
constexpr int64_t kTileRows = 64;
// Weight gradients: as narrow as products stay fast, for the same reason as kBlock.
constexpr int64_t kGradBlock = 64;

// The accumulation type of a row: its own, or float32 for float16 and bfloat16.
at::Tensor wide(const at::Tensor& a) {
  return at::isReducedFloatingType(a.scalar_type()) ? a.to(at::kFloat) : a;
}

// Splits the work over threads, each inside one matrix product at a time. Worker threads start with
// autograd on, the calling thread is already below it.
template <class Work>
void parallel(int64_t count, int64_t grain, const Work& work) {
  at::parallel_for(0, count, grain, [&](int64_t begin, int64_t end) {
    at::AutoDispatchBelowAutograd guard;
    work(begin, end);
  });
}

// grad *= slope where y < 0.
void leaky(const at::Tensor& grad, const at::Tensor& y, double slope) {
  if (slope != 1) grad.copy_(at::where(y < 0, grad * slope, grad));
}

// strict_lower(gz^T h) + strict_upper(gh^T x), by block rows of the result: each needs only the
// columns on its side of the diagonal.
at::Tensor packed_outer(const at::Tensor& gz, const at::Tensor& h, const at::Tensor& gh,
                        const at::Tensor& x) {
  const int64_t n = x.size(1);
  auto glu = at::zeros({n, n}, x.options());
  const auto block_row = [&](int64_t begin, int64_t end) {
    const auto row = glu.slice(0, begin, end);
    const auto gz_block = gz.slice(1, begin, end).t();
    const auto gh_block = gh.slice(1, begin, end).t();
    auto left = row.slice(1, 0, begin);
    auto right = row.slice(1, end, n);
    if (begin > 0) at::mm_out(left, gz_block, h.slice(1, 0, begin));
    if (end < n) at::mm_out(right, gh_block, x.slice(1, end, n));
    auto lower = at::mm(gz_block, h.slice(1, begin, end)).tril_(-1);
    auto upper = at::mm(gh_block, x.slice(1, begin, end)).triu_(1);
    row.slice(1, begin, end).copy_(lower.add_(upper));
  };
  parallel((n + kGradBlock - 1) / kGradBlock, 1, [&](int64_t first, int64_t last) {
    for (int64_t block = first; block < last; ++block) {
      block_row(block * kGradBlock, std::min((block + 1) * kGradBlock, n));
    }
  });
  return glu;
}

}  // namespace

std::tuple<at::Tensor, at::Tensor> lu_leaky(const at::Tensor& x, const at::Tensor& lu,
                                            const std::optional<at::Tensor>& bias, double diagonal,
                                            double negative_slope) {
  const auto t = wide(lu).t();
  const auto upper = factor(t, Triangle::lower, diagonal);  // U^T
  const auto lower = factor(t, Triangle::upper, diagonal);  // L^T
  const auto x_wide = wide(x);
  const auto h = at::empty_like(x_wide), y = at::empty_like(x_wide);
  parallel(x.size(0), kTileRows, [&](int64_t begin, int64_t end) {
    const auto h_tile = h.slice(0, begin, end);
    auto y_tile = y.slice(0, begin, end);
    multiply(x_wide.slice(0, begin, end), upper, h_tile);
    multiply(h_tile, lower, y_tile);
    if (bias) y_tile.add_(*bias);
    if (negative_slope != 1) at::leaky_relu_(y_tile, negative_slope);
  });
  return {y.to(x.dtype()), h.to(x.dtype())};
}

std::tuple<at::Tensor, at::Tensor> lu_leaky_inverse(const at::Tensor& y, const at::Tensor& lu,
                                                    const std::optional<at::Tensor>& bias,
                                                    double diagonal, double negative_slope) {
  const auto t = wide(lu).t();
  const auto upper = inverted_factor(t, Triangle::lower, diagonal);  // U^T
  const auto lower = inverted_factor(t, Triangle::upper, diagonal);  // L^T
  const auto y_wide = wide(y);
  const auto h = at::empty_like(y_wide), x = at::empty_like(y_wide);
  parallel(y.size(0), kTileRows, [&](int64_t begin, int64_t end) {
    const auto h_tile = h.slice(0, begin, end);
    auto z_tile = at::leaky_relu(y_wide.slice(0, begin, end), 1 / negative_slope);
    if (bias) z_tile.sub_(*bias);
    solve(z_tile, lower, h_tile);
    solve(h_tile, upper, x.slice(0, begin, end));
  });
  return {x.to(y.dtype()), h.to(y.dtype())};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> lu_leaky_backward(
    const at::Tensor& gy, const at::Tensor& x, const at::Tensor& y, const at::Tensor& h,
    const at::Tensor& lu, double diagonal, double negative_slope) {
  const auto t = wide(lu);
  const auto lower = factor(t, Triangle::lower, diagonal);
  const auto upper = factor(t, Triangle::upper, diagonal);
  const auto gz = wide(gy).clone();
  const auto gh = at::empty_like(gz), gx = at::empty_like(gz);
  parallel(x.size(0), kTileRows, [&](int64_t begin, int64_t end) {
    const auto gz_tile = gz.slice(0, begin, end), gh_tile = gh.slice(0, begin, end);
    leaky(gz_tile, y.slice(0, begin, end), negative_slope);
    multiply(gz_tile, lower, gh_tile);
    multiply(gh_tile, upper, gx.slice(0, begin, end));
  });
  const auto glu = packed_outer(gz, wide(h), gh, wide(x));
  return {gx.to(x.dtype()), glu.to(x.dtype()), gz.sum(0).to(x.dtype())};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> lu_leaky_inverse_backward(
    const at::Tensor& gx, const at::Tensor& x, const at::Tensor& y, const at::Tensor& h,
    const at::Tensor& lu, double diagonal, double negative_slope) {
  const auto t = wide(lu);
  const auto lower = inverted_factor(t, Triangle::lower, diagonal);
  const auto upper = inverted_factor(t, Triangle::upper, diagonal);
  const auto gx_wide = wide(gx);
  const auto gh = at::empty_like(gx_wide), gz = at::empty_like(gx_wide);
  auto gy = at::empty_like(gx_wide);
  parallel(x.size(0), kTileRows, [&](int64_t begin, int64_t end) {
    const auto gz_tile = gz.slice(0, begin, end), gh_tile = gh.slice(0, begin, end);
    auto gy_tile = gy.slice(0, begin, end);
    solve(gx_wide.slice(0, begin, end), upper, gh_tile);
    solve(gh_tile, lower, gz_tile);
    gy_tile.copy_(gz_tile);
    leaky(gy_tile, y.slice(0, begin, end), 1 / negative_slope);
  });
  const auto glu = packed_outer(gz, wide(h), gh, wide(x)).neg_();
  return {gy.to(x.dtype()), glu.to(x.dtype()), gz.sum(0).neg_().to(x.dtype())};
}

at::Tensor lu_leaky_network(const at::Tensor& rows, const std::vector<at::Tensor>& lu,
                            const std::vector<std::optional<at::Tensor>>& bias,
                            const std::vector<double>& diagonals,
                            const std::vector<double>& negative_slopes, bool inverse) {
  const auto direction = inverse ? lu_leaky_inverse : lu_leaky;
  at::Tensor result = rows;
  for (size_t i = 0; i < lu.size(); ++i) {
    const size_t layer = inverse ? lu.size() - 1 - i : i;
    result = std::get<0>(
        direction(result, lu[layer], bias[layer], diagonals[layer], negative_slopes[layer]));
  }
  return result;
}

}  // namespace invcap::cpu
