// One triangular product of at most four rows: bandwidth-bound, each weight is read once, by 16
// bytes, by as many blocks as there are columns to share out.
//
// Transposed (T[k][j] = lu[j][k]): a warp owns column j; its lanes read lu[j] along k and their
// sums meet in shuffles.
//
// Straight (T[k][j] = lu[k][j]): a block owns a group of neighbouring columns, one vector a lane;
// its warps share out k, and their sums meet in shared memory in the order of the warps.
#pragma once

#include "cuda/triangle.cuh"

namespace invcap::cuda {

constexpr int kFewRows = 4;
constexpr int kWarps = kThreads / 32;

template <class T>
struct FewRows {
  const T* in;  // (count, n)
  T* out;
  int count;
  Packed<T> t;
  const T* bias;  // or null
  Wide<T> negative_slope;
};

template <class T>
__device__ __forceinline__ void finish_few(const FewRows<T>& p, int row, int j, Wide<T> sum) {
  sum += widen(p.in[static_cast<int64_t>(row) * p.t.n + j]) * p.t.diagonal;
  if (p.bias) sum += widen(p.bias[j]);
  p.out[static_cast<int64_t>(row) * p.t.n + j] = narrow<T>(leaky(sum, p.negative_slope));
}

template <class T, Side side>
__global__ void __launch_bounds__(kThreads) few_rows_transposed(const FewRows<T> p) {
  constexpr int kStep = kWidth<T>;
  const int n = p.t.n, lane = threadIdx.x % 32;
  const int j = blockIdx.x * kWarps + threadIdx.x / 32;
  if (j >= n) return;
  const T* weights = p.t.data + static_cast<int64_t>(j) * n;
  const int begin = side == Side::below ? j + 1 : 0, end = side == Side::below ? n : j;
  Wide<T> sum[kFewRows] = {};
  // From the vector that holds `begin` on; elements outside of [begin, end) count as zero.
  for (int k = begin / kStep * kStep + lane * kStep; k < end; k += 32 * kStep) {
    const auto w = load_some(weights + k, p.t.aligned, n - k);
#pragma unroll
    for (int i = 0; i < kStep; ++i) {
      if (k + i < begin || k + i >= end) continue;
      const auto weight = widen(w.at[i]);
#pragma unroll
      for (int row = 0; row < kFewRows; ++row) {
        if (row < p.count) sum[row] += widen(p.in[static_cast<int64_t>(row) * n + k + i]) * weight;
      }
    }
  }
#pragma unroll
  for (int row = 0; row < kFewRows; ++row) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
      sum[row] += __shfl_xor_sync(0xffffffffu, sum[row], step);
    }
    if (lane == 0 && row < p.count) finish_few(p, row, j, sum[row]);
  }
}

template <class T, Side side>
__global__ void __launch_bounds__(kThreads) few_rows_straight(const FewRows<T> p) {
  constexpr int kStep = kWidth<T>, kGroup = 32 * kStep;
  const auto sums = SharedArrays().take<Wide<T>>(kWarps * kFewRows * kGroup);
  const int n = p.t.n, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int j0 = blockIdx.x * kGroup, j = j0 + lane * kStep;
  const int begin = side == Side::below ? j0 : 0;
  const int end = side == Side::below || j0 + kGroup > n ? n : j0 + kGroup;
  Wide<T> sum[kFewRows][kStep] = {};
  for (int k = begin + warp; k < end && j < n; k += kWarps) {
    const auto w = load_some(p.t.data + static_cast<int64_t>(k) * n + j, p.t.aligned, n - j);
#pragma unroll
    for (int i = 0; i < kStep; ++i) {
      if (side == Side::below ? k <= j + i : k >= j + i) continue;
      if (j + i >= n) continue;
      const auto weight = widen(w.at[i]);
#pragma unroll
      for (int row = 0; row < kFewRows; ++row) {
        if (row < p.count) sum[row][i] += widen(p.in[static_cast<int64_t>(row) * n + k]) * weight;
      }
    }
  }
#pragma unroll
  for (int row = 0; row < kFewRows; ++row) {
#pragma unroll
    for (int i = 0; i < kStep; ++i) {
      sums[(warp * kFewRows + row) * kGroup + lane * kStep + i] = sum[row][i];
    }
  }
  __syncthreads();  // all warps have handed in
  for (int i = threadIdx.x; i < p.count * kGroup; i += kThreads) {
    const int row = i / kGroup, column = i % kGroup;
    if (j0 + column >= n) continue;
    Wide<T> total = 0;
    for (int w = 0; w < kWarps; ++w) total += sums[(w * kFewRows + row) * kGroup + column];
    finish_few(p, row, j0 + column, total);
  }
}

template <class T>
constexpr size_t kFewRowsStraightBytes = kWarps * kFewRows * 32 * kWidth<T> * sizeof(Wide<T>);

}  // namespace invcap::cuda
