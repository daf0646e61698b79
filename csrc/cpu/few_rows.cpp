#include "cpu/few_rows.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <type_traits>

namespace invcap::cpu {
namespace {

// Rows of t that are read together, for independent sums.
constexpr int64_t kGroup = 4;
// Rows that one thread solves before all threads subtract their products from the rest.
constexpr int64_t kChain = 32 * kGroup;
// Multiplications that are worth another thread.
constexpr int64_t kGrain = 16384;

Range both(Range a, Range b) { return {std::max(a.begin, b.begin), std::min(a.end, b.end)}; }

// The columns that the triangle has in all of some rows, without those rows' own indices.
template <class T>
Range shared(const Strict<T>& t, Range rows) {
  return t.triangle == Triangle::lower ? Range{0, rows.begin} : Range{rows.end, t.n};
}

// sums[k] = sum over the columns j of t[first + k, j] b[j]
template <class T>
void dots(const Strict<T>& t, int64_t first, Range columns, const T* b, T* sums) {
  const T *row0 = t.row(first), *row1 = t.row(first + 1), *row2 = t.row(first + 2),
          *row3 = t.row(first + 3);
  T sum0 = 0, sum1 = 0, sum2 = 0, sum3 = 0;
#pragma omp simd reduction(+ : sum0, sum1, sum2, sum3)
  for (int64_t j = columns.begin; j < columns.end; ++j) {
    sum0 += row0[j] * b[j];
    sum1 += row1[j] * b[j];
    sum2 += row2[j] * b[j];
    sum3 += row3[j] * b[j];
  }
  sums[0] = sum0, sums[1] = sum1, sums[2] = sum2, sums[3] = sum3;
}

// b[j] += sum over k of factors[k] t[first + k, j] for the columns j
template <class T>
void add(const Strict<T>& t, int64_t first, Range columns, const T* factors, T* __restrict b) {
  const T *row0 = t.row(first), *row1 = t.row(first + 1), *row2 = t.row(first + 2),
          *row3 = t.row(first + 3);
  const T f0 = factors[0], f1 = factors[1], f2 = factors[2], f3 = factors[3];
  for (int64_t j = columns.begin; j < columns.end; ++j) {
    b[j] += (f0 * row0[j] + f1 * row1[j]) + (f2 * row2[j] + f3 * row3[j]);
  }
}

// Calls work(part) for parts of `all` of `size` (the last may be smaller), in either order.
template <class Work>
void in_parts(Range all, int64_t size, bool ascending, const Work& work) {
  const int64_t count = (all.end - all.begin + size - 1) / size;
  for (int64_t k = 0; k < count; ++k) {
    const int64_t begin = all.begin + size * (ascending ? k : count - 1 - k);
    work(Range{begin, std::min(begin + size, all.end)});
  }
}

// Calls work(part) on all threads for parts of `all`; each index costs `cost` multiplications.
template <class Work>
void on_threads(Range all, int64_t cost, const Work& work) {
  const int64_t grain = std::max<int64_t>(1, kGrain / (kGroup * std::max<int64_t>(1, cost)));
  const int64_t groups = (all.end - all.begin + kGroup - 1) / kGroup;
  at::parallel_for(0, groups, grain, [&](int64_t first, int64_t last) {
    work(Range{all.begin + kGroup * first, std::min(all.begin + kGroup * last, all.end)});
  });
}

// The same for all rows or columns of a triangle. Their lengths differ, so every thread gets
// equally many from both ends.
template <class Work>
void on_threads_evenly(int64_t n, const Work& work) {
  const int64_t half = (n + 2 * kGroup - 1) / (2 * kGroup) * kGroup;
  on_threads({0, half}, n, [&](Range part) {
    work(both(part, {0, n}));
    work(both({2 * half - part.end, 2 * half - part.begin}, {half, n}));
  });
}

// Calls work(i) for some rows in either order.
template <class Work>
void each(Range rows, bool ascending, const Work& work) {
  in_parts(rows, 1, ascending, [&](Range row) { work(row.begin); });
}

// Solves the small triangular system of a group's own `size` numbers, in registers.
template <bool ascending, class T, class Size>
void solve_own(const Strict<T>& t, int64_t first, Size size, T scale, T* b) {
  T solved[kGroup];
  for (int64_t step = 0; step < size; ++step) {
    const int64_t i = first + (ascending ? step : size - 1 - step);
    const T* row = t.matrix.row(i);
    T sum = b[i];
    for (int64_t k = 0; k < step; ++k) {
      sum -= row[first + (ascending ? k : size - 1 - k)] * solved[k];
    }
    b[i] = solved[step] = sum * scale;
  }
}

template <class T>
void solve_own(const Strict<T>& t, Range group, bool ascending, T scale, T* b) {
  const int64_t first = group.begin, size = group.end - first;
  constexpr std::integral_constant<int64_t, kGroup> full;
  if (size < kGroup) {
    ascending ? solve_own<true>(t, first, size, scale, b)
              : solve_own<false>(t, first, size, scale, b);
  } else {
    ascending ? solve_own<true>(t, first, full, scale, b)
              : solve_own<false>(t, first, full, scale, b);
  }
}

}  // namespace

template <class T>
void multiply_few(const Strict<T>& t, View<const T> rows, View<T> out, int64_t count) {
  on_threads_evenly(t.n, [&](Range part) {
    in_parts(part, kGroup, true, [&](Range group) {
      for (int64_t r = 0; r < count; ++r) {
        const T* b = rows.row(r);
        T sums[kGroup];
        dots(t, group.begin, shared(t, group), b, sums);
        each(group, true, [&](int64_t i) {
          T sum = sums[i - group.begin] + t.diagonal * b[i];
          const Range own = both(t.columns(i), group);
          for (int64_t j = own.begin; j < own.end; ++j) sum += t.row(i)[j] * b[j];
          out.row(r)[i] = sum;
        });
      }
    });
  });
}

template <class T>
void multiply_transposed_few(const Strict<T>& t, View<const T> rows, View<T> out, int64_t count) {
  on_threads_evenly(t.n, [&](Range part) {
    for (int64_t r = 0; r < count; ++r) {
      for (int64_t j = part.begin; j < part.end; ++j) out.row(r)[j] = t.diagonal * rows.row(r)[j];
    }
    in_parts({0, t.n}, kGroup, true, [&](Range group) {
      for (int64_t r = 0; r < count; ++r) {
        T factors[kGroup] = {};
        std::copy(rows.row(r) + group.begin, rows.row(r) + group.end, factors);
        add(t, group.begin, both(shared(t, group), part), factors, out.row(r));
        each(both(group, part), true, [&](int64_t i) {
          const Range own = both(t.columns(i), group);
          for (int64_t j = own.begin; j < own.end; ++j) {
            out.row(r)[j] += rows.row(r)[i] * t.row(i)[j];
          }
        });
      }
    });
  });
}

template <class T>
void solve_few(const Strict<T>& t, View<T> rows, int64_t count) {
  const bool ascending = t.triangle == Triangle::lower;
  const T scale = 1 / t.diagonal;
  // Subtracts the products with solved columns from a group.
  const auto take_out = [&](Range group, Range columns, T* b) {
    T sums[kGroup];
    dots(t, group.begin, columns, b, sums);
    for (int64_t i = group.begin; i < group.end; ++i) b[i] -= sums[i - group.begin];
  };
  in_parts({0, t.n}, kChain, ascending, [&](Range chain) {
    const Range solved = shared(t, chain);
    on_threads(chain, solved.end - solved.begin, [&](Range part) {
      in_parts(part, kGroup, true, [&](Range group) {
        for (int64_t r = 0; r < count; ++r) take_out(group, solved, rows.row(r));
      });
    });
    in_parts(chain, kGroup, ascending, [&](Range group) {
      for (int64_t r = 0; r < count; ++r) {
        T* b = rows.row(r);
        take_out(group, both(shared(t, group), chain), b);
        solve_own(t, group, ascending, scale, b);
      }
    });
  });
}

template <class T>
void solve_transposed_few(const Strict<T>& t, View<T> rows, int64_t count) {
  const bool ascending = t.triangle == Triangle::upper;
  // Subtracts the products with a solved group from the columns.
  const auto take_out = [&](Range group, Range columns, T* b) {
    T factors[kGroup] = {};
    for (int64_t i = group.begin; i < group.end; ++i) factors[i - group.begin] = -b[i];
    add(t, group.begin, columns, factors, b);
  };
  in_parts({0, t.n}, kChain, ascending, [&](Range chain) {
    in_parts(chain, kGroup, ascending, [&](Range group) {
      for (int64_t r = 0; r < count; ++r) {
        T* b = rows.row(r);
        each(group, ascending, [&](int64_t i) {
          b[i] /= t.diagonal;
          const Range own = both(t.columns(i), group);
          for (int64_t j = own.begin; j < own.end; ++j) b[j] -= b[i] * t.row(i)[j];
        });
        take_out(group, both(shared(t, group), chain), b);
      }
    });
    const Range rest = shared(t, chain);
    on_threads(rest, chain.end - chain.begin, [&](Range part) {
      in_parts(chain, kGroup, true, [&](Range group) {
        for (int64_t r = 0; r < count; ++r) take_out(group, part, rows.row(r));
      });
    });
  });
}

template <class T>
void weight_gradient_few(View<const T> gz, View<const T> h, T sign_h, View<const T> gh,
                         View<const T> x, T sign_x, int64_t count, View<T> out) {
  const int64_t n = out.stride;
  on_threads({0, n}, n, [&](Range part) {
    each(part, true, [&](int64_t i) {
      T* row = out.row(i);
      std::fill_n(row, n, T(0));
      for (int64_t r = 0; r < count; ++r) {
        const T lower = sign_h * gz.row(r)[i], upper = sign_x * gh.row(r)[i];
        for (int64_t j = 0; j < i; ++j) row[j] += lower * h.row(r)[j];
        for (int64_t j = i + 1; j < n; ++j) row[j] += upper * x.row(r)[j];
      }
    });
  });
}

#define INVCAP_INSTANTIATE(T)                                                                  \
  template void multiply_few<T>(const Strict<T>&, View<const T>, View<T>, int64_t);            \
  template void multiply_transposed_few<T>(const Strict<T>&, View<const T>, View<T>, int64_t); \
  template void solve_few<T>(const Strict<T>&, View<T>, int64_t);                              \
  template void solve_transposed_few<T>(const Strict<T>&, View<T>, int64_t);                   \
  template void weight_gradient_few<T>(View<const T>, View<const T>, T, View<const T>,         \
                                       View<const T>, T, int64_t, View<T>);
INVCAP_INSTANTIATE(float)
INVCAP_INSTANTIATE(double)
#undef INVCAP_INSTANTIATE

}  // namespace invcap::cpu
