#include "dense.h"

#include <ATen/ATen.h>
#include <ATen/Context.h>

#include <algorithm>

namespace invcap::dense {
namespace {

// Wide enough for products to run at full speed (and on a GPU to be worth a launch), narrow enough
// to leave little of what is zero.
int64_t block_size(const at::Tensor& a) { return a.is_cuda() ? 1024 : 128; }

at::Tensor lower(const at::Tensor& lu, double diagonal) {
  return lu.tril(-1).fill_diagonal_(diagonal);
}

at::Tensor part(const at::Tensor& a, int64_t row, int64_t rows_end, int64_t column,
                int64_t columns_end) {
  return a.slice(0, row, rows_end).slice(1, column, columns_end);
}

// Calls work(begin, end) for blocks of the indices of a, (n, n).
template <class Work>
void for_blocks(const at::Tensor& a, const Work& work) {
  const int64_t n = a.size(0), size = block_size(a);
  for (int64_t begin = 0; begin < n; begin += size) work(begin, std::min(begin + size, n));
}

// out = a b
void multiply(const at::Tensor& a, const at::Tensor& b, at::Tensor out) { at::mm_out(out, a, b); }

// L U, by blocks K, without products with zeros:
//
//     W[K, K..] = L[K, ..K] U[..K, K..]        W[K+1.., K] = L[K+1.., ..K] U[..K, K]
at::Tensor product(const at::Tensor& l, const at::Tensor& u) {
  const int64_t n = l.size(0);
  const auto result = at::empty_like(l);
  for_blocks(l, [&](int64_t begin, int64_t end) {
    multiply(part(l, begin, end, 0, end), part(u, 0, end, begin, n),
             part(result, begin, end, begin, n));
    if (end < n) {
      multiply(part(l, end, n, 0, end), part(u, 0, end, begin, end),
               part(result, end, n, begin, end));
    }
  });
  return result;
}

// strict_lower(dW U^T) + strict_upper(L^T dW), by blocks K, without products with zeros:
//
//     below[K.., K] = dW[K.., K..] U[K, K..]^T        above[K, K..] = L[K.., K]^T dW[K.., K..]
at::Tensor gradient(const at::Tensor& weight_grad, const at::Tensor& l, const at::Tensor& u) {
  const int64_t n = l.size(0);
  const auto result = at::empty_like(l);
  const auto above = at::empty({std::min(block_size(l), n), n}, l.options());
  for_blocks(l, [&](int64_t begin, int64_t end) {
    const auto rest = part(weight_grad, begin, n, begin, n);
    const auto row = part(above, 0, end - begin, begin, n);
    multiply(rest, part(u, begin, end, begin, n).t(), part(result, begin, n, begin, end));
    multiply(part(l, begin, n, begin, end).t(), rest, row);
    part(result, begin, end, begin, end).tril_(-1).add_(row.slice(1, 0, end - begin).triu(1));
    part(result, begin, end, end, n).copy_(row.slice(1, end - begin));
  });
  return result;
}

// The activation's backward pass; the derivative at z = 0 is 1.
at::Tensor through(const at::Tensor& grad, const at::Tensor& y, double negative_slope) {
  if (negative_slope == 1) return grad;
  const auto one = at::scalar_tensor(1, grad.options());
  return at::where(y.lt(0), one * negative_slope, one).mul_(grad);
}

at::Tensor widened(const at::Tensor& a) {
  return a.to(at::promote_types(a.scalar_type(), at::kFloat));
}

// rows T^-1. Substitution in TF32 would lose far more than one product does.
at::Tensor solved(const at::Tensor& t, const at::Tensor& rows, bool upper) {
  const at::NoTF32Guard no_tf32;
  return at::linalg_solve_triangular(t, rows, upper, /*left=*/false).contiguous();
}

}  // namespace

at::Tensor upper(const at::Tensor& lu, double diagonal) {
  return lu.triu(1).fill_diagonal_(diagonal);
}

std::tuple<at::Tensor, at::Tensor> lu_leaky(const at::Tensor& x, const at::Tensor& lu,
                                            const std::optional<at::Tensor>& bias, double diagonal,
                                            double negative_slope) {
  const auto weight = product(lower(lu, diagonal), upper(lu, diagonal));
  auto y = at::linear(x, weight, bias);
  if (negative_slope != 1) at::leaky_relu_(y, negative_slope);
  return {y, weight};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> lu_leaky_backward(
    const at::Tensor& gy, const at::Tensor& x, const at::Tensor& y, const at::Tensor& weight,
    const at::Tensor& lu, double diagonal, double negative_slope) {
  const auto gz = through(gy, y, negative_slope);
  const auto glu = gradient(gz.t().mm(x), lower(lu, diagonal), upper(lu, diagonal));
  return {gz.mm(weight), glu, gz.sum(0)};
}

std::tuple<at::Tensor, at::Tensor> lu_leaky_inverse(const at::Tensor& y, const at::Tensor& lu,
                                                    const std::optional<at::Tensor>& bias,
                                                    double diagonal, double negative_slope) {
  const auto wide = widened(lu);
  auto z = widened(y);
  if (negative_slope != 1) z = at::leaky_relu(z, 1 / negative_slope);
  if (bias) z = z - *bias;
  const auto h = solved(lower(wide, diagonal).t(), z, /*upper=*/true);
  const auto x = solved(upper(wide, diagonal).t(), h, /*upper=*/false);
  return {x.to(y.scalar_type()), h.to(y.scalar_type())};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> lu_leaky_inverse_rows(const at::Tensor& gx,
                                                                     const at::Tensor& y,
                                                                     const at::Tensor& lu,
                                                                     double diagonal,
                                                                     double negative_slope) {
  const auto wide = widened(lu);
  const auto gh = solved(upper(wide, diagonal), widened(gx), /*upper=*/true);
  const auto gz = solved(lower(wide, diagonal), gh, /*upper=*/false);
  const auto gy = negative_slope == 1 ? gz : at::where(y.lt(0), gz / negative_slope, gz);
  return {gy.to(y.scalar_type()), gz.to(y.scalar_type()), gh.to(y.scalar_type())};
}

}  // namespace invcap::dense
