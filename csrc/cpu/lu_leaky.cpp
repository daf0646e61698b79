#include "cpu/lu_leaky.h"

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>

#include <vector>

#include "cpu/tile.h"
#include "cpu/triangular.h"
#include "cpu/weight_gradient.h"

namespace invcap::cpu {
namespace {

// The accumulation type of a row: its own, or float32 for float16 and bfloat16.
at::Tensor wide(const at::Tensor& a) {
  return at::isReducedFloatingType(a.scalar_type()) ? a.to(at::kFloat) : a;
}

template <class T>
View<const T> read(const at::Tensor& a) {
  return {a.const_data_ptr<T>(), a.size(1)};
}

template <class T>
View<T> write(const at::Tensor& a) {
  return {a.mutable_data_ptr<T>(), a.size(1)};
}

// Computed for all elements and then chosen, as vectors can.
template <class T>
T leaky(T value, T slope, T sign) {
  const T scaled = slope * value;
  return sign < 0 ? scaled : value;
}

constexpr auto kAsItIs = [](auto value, int64_t, int64_t) { return value; };

// A layer made ready for one direction.
template <class T>
struct Layer {
  at::Tensor lu, bias;
  Triangular<T> lower, upper;
  T slope;

  Layer(const at::Tensor& packed, const std::optional<at::Tensor>& b, double diagonal,
        double negative_slope, bool inverse)
      : lu(wide(packed).contiguous()),
        bias(b ? wide(*b).contiguous() : at::zeros({packed.size(0)}, lu.options())),
        lower((inverse ? inverted_factor<T> : factor<T>)(lu, Triangle::lower, diagonal)),
        upper((inverse ? inverted_factor<T> : factor<T>)(lu, Triangle::upper, diagonal)),
        slope(static_cast<T>(inverse ? 1 / negative_slope : negative_slope)) {}

  // h = U x, x = leaky_relu(L h + b): a tile becomes the next layer's.
  void forward(View<T> x, View<T> h, int64_t width) const {
    multiply<T>(upper, x, h, width);
    multiply<T>(lower, h, x, width);
    change<T>(lower.n, width, x, bias.const_data_ptr<T>(),
              [slope = slope](T z, T b) { return leaky(z + b, slope, z + b); });
  }

  // h = -L^-1 (leaky_relu^-1(y) - b), y = U^-1 (-h).
  void inverse(View<T> y, View<T> h, int64_t width) const {
    change<T>(lower.n, width, y, bias.const_data_ptr<T>(),
              [slope = slope](T y, T b) { return leaky(y, slope, y) - b; });
    solve<T>(lower, y, h, width);
    solve<T>(upper, h, y, width);
  }
};

// Runs rows through layers, or back through them; keeps the last h in `h`, if there is one.
template <class T>
at::Tensor run(const at::Tensor& input, const std::vector<Layer<T>>& layers, bool inverse,
               const at::Tensor& h = {}) {
  const auto output = at::empty_like(input);
  const int64_t n = input.size(1);
  for_tiles<T>(input.size(0), n, [&](const Tile& tile, View<T> a, View<T> b) {
    load<T>(tile, n, read<T>(input), a, kAsItIs);
    for (const auto& layer : layers) {
      inverse ? layer.inverse(a, b, tile.width) : layer.forward(a, b, tile.width);
    }
    const T sign = inverse ? -1 : 1;
    if (h.defined()) {
      store<T>(tile, n, b, write<T>(h), [=](T value, int64_t, int64_t) { return sign * value; });
    }
    store<T>(tile, n, a, write<T>(output), kAsItIs);
  });
  return output;
}

// The transpose of a square matrix, by blocks of its rows.
template <class T>
at::Tensor transposed(const at::Tensor& a) {
  const int64_t n = a.size(0);
  const auto result = at::empty_like(a);
  const auto from = read<T>(a);
  const auto to = write<T>(result);
  at::parallel_for(0, n, kMostColumns, [&](int64_t begin, int64_t end) {
    transpose<T>(n, end - begin, from.at(0, begin), to.at(begin), kAsItIs);
  });
  return result;
}

// Gradients of a batch as columns, (n, rows), and as many as its last tile has too much. Rows lie
// an odd number of cache lines apart, so that they do not meet in one set of a cache.
template <class T>
struct Columns {
  at::Tensor memory;
  View<T> view;
  int64_t rows;

  Columns(int64_t n, int64_t rows, const at::TensorOptions& options)
      : memory(at::empty({n, ((rows + 2 * kMostColumns) / 16 | 1) * 16}, options)),
        view(write<T>(memory)),
        rows(rows) {}

  at::Tensor sum() const { return memory.slice(1, 0, rows).sum(1); }
};

template <class T>
std::tuple<at::Tensor, at::Tensor, at::Tensor> backward(const at::Tensor& gy, const at::Tensor& x,
                                                        const at::Tensor& y, const at::Tensor& h,
                                                        const at::Tensor& lu, double diagonal,
                                                        double negative_slope) {
  const int64_t rows = x.size(0), n = x.size(1);
  const auto t = transposed<T>(lu.contiguous());
  const auto lower = factor<T>(t, Triangle::upper, diagonal);  // L^T
  const auto upper = factor<T>(t, Triangle::lower, diagonal);  // U^T
  const auto gx = at::empty_like(x);
  const Columns<T> gz(n, rows, x.options()), gh(n, rows, x.options());
  const auto y_rows = read<T>(y);
  const T slope = static_cast<T>(negative_slope);
  for_tiles<T>(rows, n, [&](const Tile& tile, View<T> a, View<T>) {
    const auto gz_tile = gz.view.at(0, tile.begin), gh_tile = gh.view.at(0, tile.begin);
    load<T>(tile, n, read<T>(gy), gz_tile,
            [=](T grad, int64_t i, int64_t j) { return leaky(grad, slope, y_rows.row(i)[j]); });
    multiply<T>(lower, gz_tile, gh_tile, tile.width);
    multiply<T>(upper, gh_tile, a, tile.width);
    store<T>(tile, n, a, write<T>(gx), kAsItIs);
  });
  return {gx, weight_gradient<T>(gz.view, h, 1, gh.view, x, 1), gz.sum()};
}

template <class T>
std::tuple<at::Tensor, at::Tensor, at::Tensor> inverse_backward(
    const at::Tensor& gx, const at::Tensor& x, const at::Tensor& y, const at::Tensor& h,
    const at::Tensor& lu, double diagonal, double negative_slope) {
  const int64_t rows = x.size(0), n = x.size(1);
  const auto t = transposed<T>(lu.contiguous());
  const auto lower = inverted_factor<T>(t, Triangle::upper, diagonal);  // L^T
  const auto upper = inverted_factor<T>(t, Triangle::lower, diagonal);  // U^T
  const auto gy = at::empty_like(x);
  const Columns<T> gz(n, rows, x.options()), minus_gh(n, rows, x.options());
  const auto y_rows = read<T>(y);
  const T slope = static_cast<T>(1 / negative_slope);
  for_tiles<T>(rows, n, [&](const Tile& tile, View<T> a, View<T>) {
    const auto gz_tile = gz.view.at(0, tile.begin), gh_tile = minus_gh.view.at(0, tile.begin);
    load<T>(tile, n, read<T>(gx), a, kAsItIs);
    solve<T>(upper, a, gh_tile, tile.width);
    solve<T>(lower, gh_tile, gz_tile, tile.width);
    store<T>(tile, n, gz_tile, write<T>(gy),
             [=](T grad, int64_t i, int64_t j) { return leaky(grad, slope, y_rows.row(i)[j]); });
  });
  return {gy, weight_gradient<T>(gz.view, h, -1, minus_gh.view, x, 1), gz.sum().neg_()};
}

std::tuple<at::Tensor, at::Tensor> one_way(const at::Tensor& input, const at::Tensor& lu,
                                           const std::optional<at::Tensor>& bias, double diagonal,
                                           double negative_slope, bool inverse) {
  const auto rows = wide(input);
  return AT_DISPATCH_FLOATING_TYPES(rows.scalar_type(), "lu_leaky", [&] {
    std::vector<Layer<scalar_t>> layer;
    layer.emplace_back(lu, bias, diagonal, negative_slope, inverse);
    const auto h = at::empty_like(rows), output = run(rows, layer, inverse, h);
    return std::make_tuple(output.to(input.dtype()), h.to(input.dtype()));
  });
}

}  // namespace

std::tuple<at::Tensor, at::Tensor> lu_leaky(const at::Tensor& x, const at::Tensor& lu,
                                            const std::optional<at::Tensor>& bias, double diagonal,
                                            double negative_slope) {
  return one_way(x, lu, bias, diagonal, negative_slope, /*inverse=*/false);
}

std::tuple<at::Tensor, at::Tensor> lu_leaky_inverse(const at::Tensor& y, const at::Tensor& lu,
                                                    const std::optional<at::Tensor>& bias,
                                                    double diagonal, double negative_slope) {
  return one_way(y, lu, bias, diagonal, negative_slope, /*inverse=*/true);
}

#define INVCAP_BACKWARD(function, grad)                                                         \
  const auto x_wide = wide(x);                                                                  \
  return AT_DISPATCH_FLOATING_TYPES(x_wide.scalar_type(), "lu_leaky_backward", [&] {            \
    const auto [input_grad, glu, gb] = function<scalar_t>(wide(grad), x_wide, wide(y), wide(h), \
                                                          wide(lu), diagonal, negative_slope);  \
    return std::make_tuple(input_grad.to(x.dtype()), glu.to(x.dtype()), gb.to(x.dtype()));      \
  });

std::tuple<at::Tensor, at::Tensor, at::Tensor> lu_leaky_backward(
    const at::Tensor& gy, const at::Tensor& x, const at::Tensor& y, const at::Tensor& h,
    const at::Tensor& lu, double diagonal, double negative_slope){INVCAP_BACKWARD(backward, gy)}

std::tuple<at::Tensor, at::Tensor, at::Tensor> lu_leaky_inverse_backward(
    const at::Tensor& gx, const at::Tensor& x, const at::Tensor& y, const at::Tensor& h,
    const at::Tensor& lu, double diagonal,
    double negative_slope){INVCAP_BACKWARD(inverse_backward, gx)}

at::Tensor lu_leaky_network(const at::Tensor& rows, const std::vector<at::Tensor>& lu,
                            const std::vector<std::optional<at::Tensor>>& bias,
                            const std::vector<double>& diagonals,
                            const std::vector<double>& negative_slopes, bool inverse) {
  const auto input = wide(rows);
  return AT_DISPATCH_FLOATING_TYPES(input.scalar_type(), "lu_leaky_network", [&] {
    std::vector<Layer<scalar_t>> layers;
    for (size_t i = 0; i < lu.size(); ++i) {
      const size_t layer = inverse ? lu.size() - 1 - i : i;
      layers.emplace_back(lu[layer], bias[layer], diagonals[layer], negative_slopes[layer],
                          inverse);
    }
    return run(input, layers, inverse).to(rows.dtype());
  });
}

}  // namespace invcap::cpu
