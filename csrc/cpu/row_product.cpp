#include "cpu/row_product.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>

namespace invcap::cpu {

template <class T>
void multiply_rows(const Triangular<T>& t, View<const T> rows, View<T> out, int64_t count) {
  const int64_t blocks = t.blocks.size(0), width = t.blocks.size(1);
  const auto columns = [&](int64_t block) {
    const int64_t begin = block * width, end = std::min(begin + width, t.n), size = end - begin;
    const View<const T> diagonal{t.blocks.template const_data_ptr<T>() + block * width * width,
                                 width};
    product(count, size, size, rows.at(0, begin), diagonal, out.at(0, begin), /*add=*/false);
    const int64_t from = t.triangle == Triangle::lower ? end : 0;
    const int64_t inner = t.triangle == Triangle::lower ? t.n - end : begin;
    if (inner > 0) {
      product(count, size, inner, rows.at(0, from), t.matrix.at(from, begin), out.at(0, begin),
              /*add=*/true);
    }
  };
  // Every thread gets equally many blocks from both ends.
  const int64_t half = (blocks + 1) / 2;
  at::parallel_for(0, half, 1, [&](int64_t first, int64_t last) {
    for (int64_t block = first; block < last; ++block) {
      columns(block);
      if (const int64_t other = blocks - 1 - block; other != block) columns(other);
    }
  });
}

template void multiply_rows<float>(const Triangular<float>&, View<const float>, View<float>,
                                   int64_t);
template void multiply_rows<double>(const Triangular<double>&, View<const double>, View<double>,
                                    int64_t);

}  // namespace invcap::cpu
