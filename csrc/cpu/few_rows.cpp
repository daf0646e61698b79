#include "cpu/few_rows.h"

#include <ATen/Parallel.h>

#include <algorithm>

namespace invcap::cpu {
namespace {

// sum over j of a[j] b[j]
template <class T>
T dot(const T* a, const T* b, int64_t begin, int64_t end) {
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = begin; j < end; ++j) sum += a[j] * b[j];
  return sum;
}

// b += factor a
template <class T>
void add(T factor, const T* __restrict a, T* __restrict b, int64_t begin, int64_t end) {
  for (int64_t j = begin; j < end; ++j) b[j] += factor * a[j];
}

// Calls work(begin, end) for the first and the last of 2 k equal parts of [0, n), for the second
// and the last but one, and so on: together they have as much of a triangle as any other two.
template <class Work>
void pairs(int64_t n, int64_t k, const Work& work) {
  const int64_t size = (n + 2 * k - 1) / (2 * k);
  at::parallel_for(0, k, 1, [&](int64_t first, int64_t last) {
    for (int64_t part = first; part < last; ++part) {
      for (const int64_t begin : {part * size, (2 * k - 1 - part) * size}) {
        work(std::min(begin, n), std::min(begin + size, n));
      }
    }
  });
}

// Calls work(i) from the first row to the last, or the other way.
template <class Work>
void each(int64_t n, bool ascending, const Work& work) {
  for (int64_t k = 0; k < n; ++k) work(ascending ? k : n - 1 - k);
}

}  // namespace

template <class T>
void multiply_few(const Strict<T>& t, View<const T> rows, View<T> out, int64_t count) {
  pairs(t.n, at::get_num_threads(), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      for (int64_t r = 0; r < count; ++r) {
        const T* b = rows.row(r);
        out.row(r)[i] = t.diagonal * b[i] + dot<T>(t.matrix.row(i), b, t.begin(i), t.end(i));
      }
    }
  });
}

template <class T>
void multiply_transposed_few(const Strict<T>& t, View<const T> rows, View<T> out, int64_t count) {
  pairs(t.n, at::get_num_threads(), [&](int64_t begin, int64_t end) {
    for (int64_t r = 0; r < count; ++r) {
      for (int64_t j = begin; j < end; ++j) out.row(r)[j] = t.diagonal * rows.row(r)[j];
    }
    for (int64_t i = 0; i < t.n; ++i) {
      for (int64_t r = 0; r < count; ++r) {
        add<T>(rows.row(r)[i], t.matrix.row(i), out.row(r), std::max(begin, t.begin(i)),
               std::min(end, t.end(i)));
      }
    }
  });
}

template <class T>
void solve_few(const Strict<T>& t, View<T> rows, int64_t count) {
  each(t.n, t.triangle == Triangle::lower, [&](int64_t i) {
    for (int64_t r = 0; r < count; ++r) {
      T* b = rows.row(r);
      b[i] = (b[i] - dot<T>(t.matrix.row(i), b, t.begin(i), t.end(i))) / t.diagonal;
    }
  });
}

template <class T>
void solve_transposed_few(const Strict<T>& t, View<T> rows, int64_t count) {
  each(t.n, t.triangle == Triangle::upper, [&](int64_t i) {
    for (int64_t r = 0; r < count; ++r) {
      T* b = rows.row(r);
      b[i] /= t.diagonal;
      add<T>(-b[i], t.matrix.row(i), b, t.begin(i), t.end(i));
    }
  });
}

#define INVCAP_INSTANTIATE(T)                                                                  \
  template void multiply_few<T>(const Strict<T>&, View<const T>, View<T>, int64_t);            \
  template void multiply_transposed_few<T>(const Strict<T>&, View<const T>, View<T>, int64_t); \
  template void solve_few<T>(const Strict<T>&, View<T>, int64_t);                              \
  template void solve_transposed_few<T>(const Strict<T>&, View<T>, int64_t);
INVCAP_INSTANTIATE(float)
INVCAP_INSTANTIATE(double)
#undef INVCAP_INSTANTIATE

}  // namespace invcap::cpu
