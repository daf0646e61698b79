// Inverts the 64 x 64 diagonal blocks of L and of U, one block of 128 threads each.
//
// Thread t < 64 finds column t of L^-1 downward, thread 64 + t column t of U^-1 upward:
//
//     X[i][t] = -(sum over k between t and i of T[i][k] X[k][t]) / c        X[t][t] = 1 / c
//
// Both triangles come back packed in one block, as lu holds L and U; rows and columns beyond n are
// zero off the diagonal. Sums are double: however a block is conditioned, inverting it is no worse
// than the products around it.
#pragma once

#include "cuda/tile_matmul.cuh"

namespace invcap::cuda {

constexpr int kInvertThreads = 2 * kColumns;
constexpr int kInvertStride = kColumns + 1;
constexpr size_t kInvertBytes = 2 * kColumns * kInvertStride * sizeof(double);

template <class T>
__global__ void __launch_bounds__(kInvertThreads)
    invert_blocks(const T* lu, int n, int stride, double diagonal, Wide<T>* inverse) {
  SharedArrays arrays;
  const auto block = arrays.take<double>(kColumns * kInvertStride);
  const auto x = arrays.take<double>(kColumns * kInvertStride);
  const int first = blockIdx.x * kColumns;
  for (int i = threadIdx.x; i < kColumns * kColumns; i += kInvertThreads) {
    const int row = i / kColumns, column = i % kColumns;
    const bool inside = first + row < n && first + column < n;
    const int64_t at = static_cast<int64_t>(first + row) * stride + first + column;
    block[row * kInvertStride + column] = inside ? widen(lu[at]) : 0.0;
  }
  __syncthreads();  // the block is there
  const bool lower = threadIdx.x < kColumns;
  const int column = threadIdx.x % kColumns, step = lower ? 1 : -1;
  Wide<T>* out = inverse + static_cast<int64_t>(blockIdx.x) * kColumns * kColumns + column;
  if (lower) out[column * kColumns] = static_cast<Wide<T>>(1 / diagonal);
  for (int row = column + step; row >= 0 && row < kColumns; row += step) {
    double sum = block[row * kInvertStride + column] * (1 / diagonal);
    for (int k = column + step; k != row; k += step) {
      sum += block[row * kInvertStride + k] * x[k * kInvertStride + column];
    }
    x[row * kInvertStride + column] = -sum / diagonal;
    out[row * kColumns] = static_cast<Wide<T>>(-sum / diagonal);
  }
}

}  // namespace invcap::cuda
