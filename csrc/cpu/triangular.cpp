#include "cpu/triangular.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>

namespace invcap::cpu {
namespace {

// Large enough for a product to run at full speed, small enough to skip most of the zero half.
// Measured best of 32, 64 and 128 at n = 384, 768 and 1024.
constexpr int64_t kBlock = 32;

template <class T>
void copy(View<const T> t, int64_t size, Triangle triangle, double diagonal, View<T> out) {
  for (int64_t i = 0; i < size; ++i) {
    const bool lower = triangle == Triangle::lower;
    std::copy(t.row(i) + (lower ? 0 : i), t.row(i) + (lower ? i : size),
              out.row(i) + (lower ? 0 : i));
    out.row(i)[i] = static_cast<T>(diagonal);
  }
}

// out = -t^-1 by forward substitution, row by row: t[i, i] t^-1[i] = e_i - sum over k < i of
// t[i, k] t^-1[k]; an upper triangle is a lower one's transpose. In float64, so that even the
// inverse of an ill-conditioned block is as accurate as the rest of a solve.
template <class T>
void invert(View<const T> t, int64_t size, Triangle triangle, double diagonal, View<T> out) {
  const bool lower = triangle == Triangle::lower;
  double inverse[kBlock][kBlock] = {};
  for (int64_t i = 0; i < size; ++i) {
    for (int64_t k = 0; k < i; ++k) {
      const double factor = (lower ? t.row(i)[k] : t.row(k)[i]) / -diagonal;
      for (int64_t j = 0; j <= k; ++j) inverse[i][j] += factor * inverse[k][j];
    }
    inverse[i][i] = 1 / diagonal;
    for (int64_t j = 0; j <= i; ++j) {
      (lower ? out.row(i)[j] : out.row(j)[i]) = static_cast<T>(-inverse[i][j]);
    }
  }
}

template <class T>
Triangular<T> prepare(const at::Tensor& matrix, Triangle triangle, double diagonal, bool inverted) {
  const int64_t n = matrix.size(0), count = (n + kBlock - 1) / kBlock;
  const View<const T> source{matrix.const_data_ptr<T>(), matrix.stride(0)};
  const auto blocks = at::zeros({count, kBlock, kBlock}, matrix.options());
  T* target = blocks.mutable_data_ptr<T>();
  at::parallel_for(0, count, 1, [&](int64_t first, int64_t last) {
    for (int64_t block = first; block < last; ++block) {
      const int64_t begin = block * kBlock, size = std::min(kBlock, n - begin);
      const View<T> out{target + block * kBlock * kBlock, kBlock};
      (inverted ? invert<T> : copy<T>)(source.at(begin, begin), size, triangle, diagonal, out);
    }
  });
  return {source, n, triangle, blocks};
}

// Calls work(begin, size, diagonal block, first row that it depends on, number of these rows), for
// blocks in an order in which each comes after those that it depends on, or before them.
template <class T, class Work>
void for_blocks(const Triangular<T>& t, bool after, const Work& work) {
  const T* diagonal = t.blocks.template const_data_ptr<T>();
  const int64_t count = t.blocks.size(0);
  const bool lower = t.triangle == Triangle::lower;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t block = lower == after ? i : count - 1 - i;
    const int64_t begin = block * kBlock, end = std::min(begin + kBlock, t.n);
    work(begin, end - begin, View<const T>{diagonal + block * kBlock * kBlock, kBlock},
         lower ? 0 : end, lower ? begin : t.n - end);
  }
}

}  // namespace

template <class T>
Triangular<T> factor(const at::Tensor& matrix, Triangle triangle, double diagonal) {
  return prepare<T>(matrix, triangle, diagonal, /*inverted=*/false);
}

template <class T>
Triangular<T> inverted_factor(const at::Tensor& matrix, Triangle triangle, double diagonal) {
  return prepare<T>(matrix, triangle, diagonal, /*inverted=*/true);
}

template <class T>
void multiply(const Triangular<T>& t, View<T> b, int64_t width) {
  alignas(64) T memory[kBlock * kMostColumns];
  const View<T> sum{memory, width};
  for_blocks(t, /*after=*/false,
             [&](int64_t begin, int64_t size, View<const T> diagonal, int64_t from, int64_t count) {
               product(size, width, size, diagonal, b.at(begin), sum, /*add=*/false);
               if (count > 0) {
                 product(size, width, count, t.matrix.at(begin, from), b.at(from), sum,
                         /*add=*/true);
               }
               copy_rows<T>(sum, size, width, b.at(begin));
             });
}

template <class T>
void solve(const Triangular<T>& t, View<T> b, int64_t width) {
  alignas(64) T memory[kBlock * kMostColumns];
  const View<T> rest{memory, width};
  for_blocks(t, /*after=*/true,
             [&](int64_t begin, int64_t size, View<const T> diagonal, int64_t from, int64_t count) {
               copy_rows<T>(b.at(begin), size, width, rest);
               if (count > 0) {
                 product(size, width, count, t.matrix.at(begin, from), b.at(from), rest,
                         /*add=*/true);
               }
               product(size, width, size, diagonal, rest, b.at(begin), /*add=*/false);
             });
}

#define INVCAP_INSTANTIATE(T)                                                     \
  template Triangular<T> factor<T>(const at::Tensor&, Triangle, double);          \
  template Triangular<T> inverted_factor<T>(const at::Tensor&, Triangle, double); \
  template void multiply<T>(const Triangular<T>&, View<T>, int64_t);              \
  template void solve<T>(const Triangular<T>&, View<T>, int64_t);
INVCAP_INSTANTIATE(float)
INVCAP_INSTANTIATE(double)
#undef INVCAP_INSTANTIATE

}  // namespace invcap::cpu
