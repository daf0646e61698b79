// Inverts the 64 x 64 diagonal blocks of L and of U, one block of 128 threads each.
//
// Thread t < 64 finds column t of L^-1 downward, thread 64 + t column t of U^-1 upward:
//
//     X[i][t] = -(sum over k between t and i of T[i][k] X[k][t]) / c        X[t][t] = 1 / c
//
// Both triangles come back packed in one block, as lu holds L and U; rows and columns beyond n are
// zero off the diagonal. Sums are double: however a block is conditioned, inverting it is no worse
// than the products around it.
//
// Beside its inverse lies the block that was inverted, c on its diagonal. A block that has not
// changed since is read, compared and left alone: weights are inverted once, however often they
// solve, and nobody has to say when they change.
#pragma once

#include "cuda/tile_matmul.cuh"

namespace invcap::cuda {

constexpr int kInvertThreads = 2 * kColumns;
constexpr int kInvertStride = kColumns + 1;
constexpr size_t kInvertBytes = 2 * kColumns * kInvertStride * sizeof(double);

template <class T>
struct InvertBlocks {
  int n;
  struct Layer {
    const T* lu;
    Wide<T>* inverse;  // the inverted blocks, and behind them the blocks that were inverted
    double diagonal;
  } layers[kMaxDepth];
};

template <class T>
__global__ void __launch_bounds__(kInvertThreads) invert_blocks(const InvertBlocks<T> p) {
  constexpr int kElements = kColumns * kColumns;
  SharedArrays arrays;
  const auto block = arrays.take<double>(kColumns * kInvertStride);
  const auto x = arrays.take<double>(kColumns * kInvertStride);
  const auto& layer = p.layers[blockIdx.y];
  const int first = blockIdx.x * kColumns;
  Wide<T>* inverse = layer.inverse + blockIdx.x * kElements;
  Wide<T>* inverted = inverse + gridDim.x * kElements;
  bool changed = false;
  for (int i = threadIdx.x; i < kElements; i += kInvertThreads) {
    const int row = i / kColumns, column = i % kColumns;
    const bool inside = first + row < p.n && first + column < p.n;
    const int64_t at = static_cast<int64_t>(first + row) * p.n + first + column;
    const auto value = row == column ? static_cast<Wide<T>>(layer.diagonal)
                       : inside      ? widen(layer.lu[at])
                                     : Wide<T>(0);
    block[row * kInvertStride + column] = value;
    changed |= !(inverted[i] == value);
    inverted[i] = value;
  }
  if (!__syncthreads_or(changed)) return;  // and: the block is there
  const bool lower = threadIdx.x < kColumns;
  const int column = threadIdx.x % kColumns, step = lower ? 1 : -1;
  const double c = layer.diagonal;
  if (lower) inverse[column * kColumns + column] = static_cast<Wide<T>>(1 / c);
  for (int row = column + step; row >= 0 && row < kColumns; row += step) {
    double sum = block[row * kInvertStride + column] / c;
    for (int k = column + step; k != row; k += step) {
      sum += block[row * kInvertStride + k] * x[k * kInvertStride + column];
    }
    x[row * kInvertStride + column] = -sum / c;
    inverse[row * kColumns + column] = static_cast<Wide<T>>(-sum / c);
  }
}

}  // namespace invcap::cuda
