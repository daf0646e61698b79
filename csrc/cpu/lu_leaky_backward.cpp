#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>

#include <vector>

#include "cpu/layer.h"
#include "cpu/lu_leaky.h"
#include "cpu/row_product.h"
#include "cpu/tile.h"
#include "cpu/weight_gradient.h"

namespace invcap::cpu {
namespace {

// The largest batch that is processed as rows: for more, transposing lu for tiles is worth it.
constexpr int64_t kMostAsRows = 64;

// Memory of a backward pass: the transpose of lu, and gz and gh as columns, (n, rows), padded for
// the last tile. A thread keeps small memory for its next call, since allocating it takes longer
// than a small product.
template <class T>
struct Workspace {
  static constexpr int64_t kKept = int64_t{1} << 22;
  at::Tensor memory;
  View<T> lu_t, gz, gh;

  Workspace(int64_t n, int64_t rows, const at::TensorOptions& options) {
    thread_local at::Tensor kept;
    const int64_t side = odd_lines(n), stride = odd_lines(rows + kMostColumns);
    const int64_t size = n * (side + 2 * stride);
    memory = kept.defined() && kept.numel() >= size ? kept : at::empty({size}, options);
    if (size <= kKept) kept = memory;
    lu_t = {memory.mutable_data_ptr<T>(), side};
    gz = {lu_t.row(n), stride};
    gh = {gz.row(n), stride};
  }

  // Rounds up to an odd number of cache lines of 16 numbers.
  static int64_t odd_lines(int64_t numbers) { return ((numbers + 15) / 16 | 1) * 16; }
};

// The inputs of a backward pass, and where the gradient in its input is written.
template <class T>
struct Pass {
  at::Tensor lu;
  double diagonal;
  bool inverse;
  T slope;
  int64_t rows;
  View<const T> grad, y;
  View<T> input_grad;

  // The activation's backward pass for one row.
  void through(int64_t row, const T* from, T* to) const {
    const T *signs = y.row(row), s = slope;
    const int64_t n = y.stride;
    for (int64_t j = 0; j < n; ++j) to[j] = leaky(from[j], s, signs[j]);
  }
};

// Writes gz and gh, or -gh for the inverse.
template <class T>
void backward_tiles(const Pass<T>& pass, View<T> lu_t, View<T> all_gz, View<T> all_gh) {
  const int64_t n = pass.lu.size(0);
  at::parallel_for(0, n, kMostColumns, [&](int64_t begin, int64_t end) {
    transpose<T>(n, end - begin, read<T>(pass.lu).at(0, begin), lu_t.at(begin));
  });
  const Factors<T> t(at::from_blob(lu_t.data, {n, n}, {lu_t.stride, 1}, pass.lu.options()),
                     pass.diagonal, pass.inverse);
  const auto &lower = t.upper, &upper = t.lower;  // L^T and U^T
  for_tiles<T>(pass.rows, n, [&](const Tile& tile, View<T> columns) {
    const auto gz = all_gz.at(0, tile.begin), gh = all_gh.at(0, tile.begin);
    const auto keep = [&](View<T> out) { copy_rows<T>(columns, n, tile.width, out); };
    if (pass.inverse) {
      load<T>(tile, n, pass.grad, columns);
      solve<T>(upper, columns, tile.width);
      keep(gh);
      solve<T>(lower, columns, tile.width);
      keep(gz);
      store<T>(tile, n, columns, pass.input_grad);
      for (int64_t row = tile.begin; row < tile.begin + tile.size; ++row) {
        pass.through(row, pass.input_grad.row(row), pass.input_grad.row(row));
      }
    } else {
      // The memory of the result holds gz until the result is computed.
      for (int64_t row = tile.begin; row < tile.begin + tile.size; ++row) {
        pass.through(row, pass.grad.row(row), pass.input_grad.row(row));
      }
      load<T>(tile, n, pass.input_grad, columns);
      keep(gz);
      multiply<T>(lower, columns, tile.width);
      keep(gh);
      multiply<T>(upper, columns, tile.width);
      store<T>(tile, n, columns, pass.input_grad);
    }
  });
}

// For up to kMostAsRows rows, which are not transposed: writes gz and gh.
template <class T>
void backward_rows(const Pass<T>& pass, View<T> all_gz, View<T> all_gh) {
  const int64_t n = pass.lu.size(0);
  const Factors<T> t(pass.lu, pass.diagonal, /*inverse=*/false);
  Memory<T> memory(2 * pass.rows * n);
  const View<T> gz{memory.data(), n}, gh{gz.row(pass.rows), n};
  for (int64_t row = 0; row < pass.rows; ++row) {
    pass.through(row, pass.grad.row(row), gz.row(row));
  }
  multiply_rows<T>(t.lower, gz, gh, pass.rows);
  multiply_rows<T>(t.upper, gh, pass.input_grad, pass.rows);
  transpose<T>(pass.rows, n, gz, all_gz);
  transpose<T>(pass.rows, n, gh, all_gh);
}

// For few rows (few_rows.h): writes gz and gh, (rows, n).
template <class T>
void backward_few(const Pass<T>& pass, View<T> gz, View<T> gh) {
  const auto lower = strict<T>(pass.lu, Triangle::lower, pass.diagonal);
  const auto upper = strict<T>(pass.lu, Triangle::upper, pass.diagonal);
  const int64_t size = pass.rows * lower.n;
  const auto through = [&](auto from, auto to) {
    for (int64_t r = 0; r < pass.rows; ++r) pass.through(r, from.row(r), to.row(r));
  };
  if (pass.inverse) {
    std::copy_n(pass.grad.data, size, gh.data);
    solve_transposed_few<T>(upper, gh, pass.rows);
    std::copy_n(gh.data, size, gz.data);
    solve_transposed_few<T>(lower, gz, pass.rows);
    through(gz, pass.input_grad);
  } else {
    through(pass.grad, gz);
    multiply_transposed_few<T>(lower, gz, gh, pass.rows);
    multiply_transposed_few<T>(upper, gh, pass.input_grad, pass.rows);
  }
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> backward(const at::Tensor& grad, const at::Tensor& x,
                                                        const at::Tensor& y, const at::Tensor& h,
                                                        const at::Tensor& lu, double diagonal,
                                                        double negative_slope, bool inverse) {
  const auto grad_wide = wide(grad), x_wide = wide(x), y_wide = wide(y), h_wide = wide(h);
  const auto options = x_wide.options();
  const int64_t rows = x.size(0), n = x.size(1);
  const auto input_grad = at::empty_like(x_wide);
  return AT_DISPATCH_FLOATING_TYPES(x_wide.scalar_type(), "lu_leaky_backward", [&] {
    using T = scalar_t;
    const Pass<T> pass{wide(lu).contiguous(),
                       diagonal,
                       inverse,
                       static_cast<T>(inverse ? 1 / negative_slope : negative_slope),
                       rows,
                       read<T>(grad_wide),
                       read<T>(y_wide),
                       write<T>(input_grad)};
    // For the inverse, -(strict_lower(gz^T h) + strict_upper(gh^T x)) and -sum gz.
    const T sign = inverse ? -1 : 1;
    at::Tensor glu, gb;
    if (is_few(rows)) {
      const auto gz = at::empty_like(x_wide), gh = at::empty_like(x_wide);
      backward_few(pass, write<T>(gz), write<T>(gh));
      glu = at::empty({n, n}, options);
      weight_gradient_few<T>(read<T>(gz), read<T>(h_wide), sign, read<T>(gh), read<T>(x_wide), sign,
                             rows, write<T>(glu));
      gb = gz.sum(0).mul_(sign);
    } else {
      const Workspace<T> work(n, rows, options);
      if (rows <= kMostAsRows && !inverse) {
        backward_rows(pass, work.gz, work.gh);
      } else {
        backward_tiles(pass, work.lu_t, work.gz, work.gh);
      }
      glu = weight_gradient<T>(work.gz, h_wide, sign, work.gh, x_wide, 1);
      gb = at::from_blob(work.gz.data, {n, rows}, {work.gz.stride, 1}, options).sum(1).mul_(sign);
    }
    return std::make_tuple(input_grad.to(x.dtype()), glu.to(x.dtype()), gb.to(x.dtype()));
  });
}

}  // namespace

std::tuple<at::Tensor, at::Tensor, at::Tensor> lu_leaky_backward(
    const at::Tensor& gy, const at::Tensor& x, const at::Tensor& y, const at::Tensor& h,
    const at::Tensor& lu, double diagonal, double negative_slope) {
  return backward(gy, x, y, h, lu, diagonal, negative_slope, /*inverse=*/false);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> lu_leaky_inverse_backward(
    const at::Tensor& gx, const at::Tensor& x, const at::Tensor& y, const at::Tensor& h,
    const at::Tensor& lu, double diagonal, double negative_slope) {
  return backward(gx, x, y, h, lu, diagonal, negative_slope, /*inverse=*/true);
}

}  // namespace invcap::cpu
