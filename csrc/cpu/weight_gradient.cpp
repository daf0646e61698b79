#include "cpu/weight_gradient.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>

#include "cpu/memory.h"

namespace invcap::cpu {
namespace {

// Size of blocks on the diagonal, half of which is computed but not used.
constexpr int64_t kBlock = 32;
// Rows of the batch at a time, and columns times rows of a panel that stays in the L1 and L2 cache.
constexpr int64_t kRows = 512, kPanel = kRows * kBlock;

// As wide as the caches allow, but with several panels for each thread.
int64_t panel_width(int64_t n, int64_t rows) {
  const int64_t most = std::min(kPanel / std::min(rows, kRows), n / (2 * at::get_num_threads()));
  return std::max<int64_t>(1, most / kBlock) * kBlock;
}

}  // namespace

template <class T>
at::Tensor weight_gradient(View<const T> gz, const at::Tensor& h, T sign_h, View<const T> gh,
                           const at::Tensor& x, T sign_x) {
  const int64_t rows = x.size(0), n = x.size(1);
  if (rows == 0) return at::zeros({n, n}, x.options());
  const auto result = at::empty({n, n}, x.options());
  const View<T> out{result.mutable_data_ptr<T>(), n};
  const View<const T> h_rows{h.const_data_ptr<T>(), n}, x_rows{x.const_data_ptr<T>(), n};
  const int64_t width = panel_width(n, rows), most_rows = std::min(kRows, rows);

  // Columns [begin, end) of the result need the same columns of h, packed, from the diagonal down,
  // and of x above it; blocks on it are written from h, and from x into `upper`.
  const auto panel = [&](int64_t begin, int64_t end, View<T> h_packed, View<T> x_packed,
                         View<T> upper) {
    for (int64_t first = 0; first < rows; first += kRows) {
      const int64_t count = std::min(kRows, rows - first);
      const bool add = first > 0;
      const auto pack = [&](View<const T> from, T sign, View<T> to) {
        for (int64_t i = 0; i < count; ++i) {
          const T* source = from.row(first + i) + begin;
          T* target = to.row(i);
          for (int64_t j = 0; j < end - begin; ++j) target[j] = sign * source[j];
        }
      };
      pack(h_rows, sign_h, h_packed);
      pack(x_rows, sign_x, x_packed);
      const auto fill = [&](int64_t row, int64_t height) {
        const int64_t middle = std::clamp(row + height, begin, end);
        if (begin < middle) {
          product(height, middle - begin, count, gz.at(row, first), h_packed, out.at(row, begin),
                  add);
        }
        if (middle < end) {
          product(height, end - middle, count, gh.at(row, first), x_packed.at(0, middle - begin),
                  out.at(row, middle), add);
        }
      };
      if (begin > 0) fill(0, begin);
      for (int64_t row = begin; row < end; row += kBlock) {
        const int64_t size = std::min(kBlock, end - row);
        fill(row, size);
        product(size, size, count, gh.at(row, first), x_packed.at(0, row - begin),
                upper.at(row - begin), add);
      }
      if (end < n) fill(end, n - end);
    }
    for (int64_t row = begin; row < end; ++row) {
      const int64_t i = (row - begin) % kBlock, size = std::min(kBlock, end - (row - i));
      const T* above = upper.row(row - begin);
      out.row(row)[row] = 0;
      std::copy(above + i + 1, above + size, out.row(row) + row + 1);
    }
  };
  at::parallel_for(0, (n + width - 1) / width, 1, [&](int64_t first, int64_t last) {
    Memory<T> memory(2 * most_rows * width + width * kBlock);
    const View<T> h_packed{memory.data(), width}, x_packed = h_packed.at(most_rows),
                                                  upper{x_packed.row(most_rows), kBlock};
    for (int64_t index = first; index < last; ++index) {
      panel(index * width, std::min((index + 1) * width, n), h_packed, x_packed, upper);
    }
  });
  return result;
}

template at::Tensor weight_gradient<float>(View<const float>, const at::Tensor&, float,
                                           View<const float>, const at::Tensor&, float);
template at::Tensor weight_gradient<double>(View<const double>, const at::Tensor&, double,
                                            View<const double>, const at::Tensor&, double);

}  // namespace invcap::cpu
