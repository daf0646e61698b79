// glu = strict_lower(gz^T h) + strict_upper(gh^T x), and gb = sum gz: sums over the rows of a
// batch.
//
//     for each 64 x 64 tile of glu, those on the diagonal twice, and each slice of the rows
//     (a block of threads each):
//       of the lower triangle: sum = gz[slice, I]^T h[slice, J], keep i >= j
//       of the upper triangle: sum = gh[slice, I]^T x[slice, J], keep i < j
//
// so that no tile computes what belongs to the other triangle, save for the n / 64 on the diagonal.
// Slices make work for all processors when n is small. Their partial sums are added by a second
// kernel in the order of the slices, whatever the order in which they were found: results are
// bitwise the same from run to run.
#pragma once

#include "cuda/tile_matmul.cuh"

namespace invcap::cuda {

template <class T>
struct WeightGradient {
  const T *gz, *h, *gh, *x;  // (count, n)
  Wide<T>* partial;          // (slices, n, n)
  int64_t count, slice;      // rows, rows a slice
  int n;
  bool aligned;  // rows can be read by 16 bytes
};

// Padded so that 16 rows of two vectors, stored transposed, meet different banks.
template <class Math>
constexpr int kOuterStride = kDepth + (sizeof(typename Math::Tile) == 8 ? 2 : 4);
template <class Math>
constexpr size_t kWeightGradientBytes =
    sizeof(typename Math::Tile) *
    (kColumns * kOuterStride<Math> + kWeightTile<typename Math::Tile>);

template <class Math, class T>
__global__ void __launch_bounds__(kThreads) weight_gradient(const WeightGradient<T> p) {
  static_assert(Math::kRows == kColumns && std::is_same_v<T, typename Math::Tile>);
  constexpr int kStep = kWidth<T>, kRightStride = WeightTile<T, false>::kStride;
  SharedArrays arrays;
  const auto left_tile = arrays.take<T>(kColumns * kOuterStride<Math>);  // transposed: [i][row]
  const auto right_tile = arrays.take<T>(kWeightTile<T>);                // [row][j]
  const int blocks = (p.n + kColumns - 1) / kColumns;
  const int block_row = blockIdx.x / (blocks + 1), block = blockIdx.x % (blocks + 1);
  const bool lower = block <= block_row;
  const int i0 = block_row * kColumns, j0 = (lower ? block : block - 1) * kColumns;
  const int64_t begin = blockIdx.y * p.slice;
  const int64_t end = begin + p.slice < p.count ? begin + p.slice : p.count;
  Wide<T>* out = p.partial + static_cast<int64_t>(blockIdx.y) * p.n * p.n;

  // What this thread brings of [first : first + 32, column : column + 64].
  constexpr int kOwn = kDepth * kColumns / kThreads / kStep;
  // f(own, row, inner): along rows or, where it is to be transposed, two vectors of 16 rows a warp.
  const auto for_own = [](bool transposed, const auto& f) {
#pragma unroll
    for (int own = 0; own < kOwn; ++own) {
      const int i = own * kThreads + threadIdx.x, part = i / 32;
      if (transposed) {
        f(own, i % 16 + part % 2 * 16, (part / 2 * 2 + i % 32 / 16) * kStep);
      } else {
        f(own, i * kStep / kColumns, i * kStep % kColumns);
      }
    }
  };
  const auto bring = [&](auto& to, bool transposed, const T* from, int64_t first, int column) {
    for_own(transposed, [&](int own, int row, int inner) {
      const int count = first + row < end ? p.n - column - inner : 0;
      to[own] = load_some(from + (first + row) * p.n + column + inner, p.aligned, count);
    });
  };
  const T *left = lower ? p.gz : p.gh, *right = lower ? p.h : p.x;
  Math sum;
  Vector<T, kStep> lefts[kOwn], rights[kOwn];
  bring(lefts, true, left, begin, i0);
  bring(rights, false, right, begin, j0);
  for (int64_t first = begin; first < end; first += kDepth) {
    __syncthreads();  // the previous step has been read
    for_own(false, [&](int own, int row, int inner) {
      store_shared(right_tile + (row * kRightStride + inner), rights[own]);
    });
    for_own(true, [&](int own, int row, int inner) {
#pragma unroll
      for (int i = 0; i < kStep; ++i) {
        left_tile[(inner + i) * kOuterStride<Math> + row] = lefts[own].at[i];
      }
    });
    __syncthreads();  // this step is there
    bring(lefts, true, left, first + kDepth, i0);
    bring(rights, false, right, first + kDepth, j0);
    sum.template multiply_add<false>(left_tile, kOuterStride<Math>, right_tile);
  }
  sum.template for_each<false>([&](int row, int column, auto value) {
    const int i = i0 + row, j = j0 + column;
    if (i < p.n && j < p.n && (i >= j) == lower) {
      out[static_cast<int64_t>(i) * p.n + j] = i == j ? Wide<T>(0) : value;
    }
  });
}

// partial[slice] = sum of the rows of gz in each slice, one thread a column.
template <class T>
__global__ void __launch_bounds__(kThreads)
    bias_gradient(const T* gz, int64_t count, int64_t slice, int n, Wide<T>* partial) {
  const int column = blockIdx.x * kThreads + threadIdx.x;
  if (column >= n) return;
  const int64_t begin = blockIdx.y * slice, end = begin + slice < count ? begin + slice : count;
  Wide<T> sum = 0;
  for (int64_t row = begin; row < end; ++row) sum += widen(gz[row * n + column]);
  partial[static_cast<int64_t>(blockIdx.y) * n + column] = sum;
}

// out = sign times the sum of the slices, in their order.
template <class T>
__global__ void __launch_bounds__(kThreads)
    sum_slices(const Wide<T>* partial, int slices, int64_t count, Wide<T> sign, T* out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= count) return;
  Wide<T> sum = 0;
  for (int slice = 0; slice < slices; ++slice) sum += partial[slice * count + i];
  out[i] = narrow<T>(sign * sum);
}

}  // namespace invcap::cuda
