#include "cpu/lu_leaky.h"

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>

#include <vector>

#include "cpu/layer.h"
#include "cpu/tile.h"

namespace invcap::cpu {
namespace {

// A layer in the accumulation type; `slope` is that of the direction that is computed.
template <class T>
struct Layer {
  at::Tensor lu, bias;
  double diagonal;
  T slope;

  Layer(const at::Tensor& packed, const std::optional<at::Tensor>& b, double diagonal,
        double negative_slope, bool inverse)
      : lu(wide(packed).contiguous()),
        bias(b ? wide(*b).contiguous() : at::zeros({packed.size(0)}, lu.options())),
        diagonal(diagonal),
        slope(static_cast<T>(inverse ? 1 / negative_slope : negative_slope)) {}

  T activate(T z, T b) const { return leaky(z + b, slope, z + b); }
  T undo(T y, T b) const { return leaky(y, slope, y) - b; }
};

// Computes a layer for a few rows, and h.
template <class T>
at::Tensor run_few(const Layer<T>& layer, bool inverse, const at::Tensor& input,
                   const at::Tensor& h) {
  const auto lower = strict<T>(layer.lu, Triangle::lower, layer.diagonal);
  const auto upper = strict<T>(layer.lu, Triangle::upper, layer.diagonal);
  const int64_t count = input.size(0);
  const auto output = at::empty_like(input);
  const auto in = read<T>(input);
  const auto middle = write<T>(h), out = write<T>(output);
  const T* bias = layer.bias.template const_data_ptr<T>();
  const auto each = [&](auto from, auto to, const auto& map) {
    for (int64_t r = 0; r < count; ++r) {
      for (int64_t j = 0; j < lower.n; ++j) to.row(r)[j] = map(from.row(r)[j], bias[j]);
    }
  };
  if (inverse) {
    each(in, middle, [&](T y, T b) { return layer.undo(y, b); });
    solve_few<T>(lower, middle, count);
    each(middle, out, [](T value, T) { return value; });
    solve_few<T>(upper, out, count);
  } else {
    multiply_few<T>(upper, in, middle, count);
    multiply_few<T>(lower, middle, out, count);
    each(out, out, [&](T z, T b) { return layer.activate(z, b); });
  }
  return output;
}

// Computes a layer for a tile, in place; calls at_h() when the tile holds h, or -h in the inverse.
template <class T, class AtH>
void run_tile(const Layer<T>& layer, const Factors<T>& factors, bool inverse, View<T> tile,
              int64_t width, const AtH& at_h) {
  const T* bias = layer.bias.template const_data_ptr<T>();
  const int64_t n = factors.lower.n;
  if (inverse) {
    change<T>(n, width, tile, bias, [=](T y, T b) { return layer.undo(y, b); });
    solve<T>(factors.lower, tile, width);
    at_h();
    solve<T>(factors.upper, tile, width);
  } else {
    multiply<T>(factors.upper, tile, width);
    at_h();
    multiply<T>(factors.lower, tile, width);
    change<T>(n, width, tile, bias, [=](T z, T b) { return layer.activate(z, b); });
  }
}

// Computes layers, or their inverses, for rows; writes the last h to `h`, if it is defined.
template <class T>
at::Tensor run(const at::Tensor& input, const std::vector<Layer<T>>& layers, bool inverse,
               const at::Tensor& h = {}) {
  const int64_t rows = input.size(0), n = input.size(1);
  if (is_few(rows)) {
    const auto middle = h.defined() ? h : at::empty_like(input);
    at::Tensor result = input;
    for (const auto& layer : layers) result = run_few(layer, inverse, result, middle);
    return result;
  }
  std::vector<Factors<T>> factors;
  for (const auto& layer : layers) factors.emplace_back(layer.lu, layer.diagonal, inverse);
  const auto output = at::empty_like(input);
  for_tiles<T>(rows, n, [&](const Tile& tile, View<T> columns) {
    const auto at_h = [&] {
      if (!h.defined()) return;
      const View<T> out = write<T>(h);
      store<T>(tile, n, columns, out);
      T* first = out.row(tile.begin);
      for (int64_t i = 0; i < tile.size * n && inverse; ++i) first[i] = -first[i];
    };
    load<T>(tile, n, read<T>(input), columns);
    for (size_t i = 0; i < layers.size(); ++i) {
      run_tile(layers[i], factors[i], inverse, columns, tile.width, at_h);
    }
    store<T>(tile, n, columns, write<T>(output));
  });
  return output;
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
