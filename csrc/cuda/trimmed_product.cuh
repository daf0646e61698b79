// One triangular product out of place, for rows that are too long to stay in shared memory.
//
//     for each tile of kRows rows and each block of 64 columns J (a block of threads each):
//       sum = in[:, K] T[K, J] over the K that T's triangle couples to J, in steps of 32,
//             the next two steps' tiles of both on their way
//       out[:, J] = leaky(sum + b)
//
// The K loop is trimmed to the triangle, so half of a dense product's work is never begun. Blocks
// start with a tile's columns, longest K first: a tile of rows is read once, by blocks that run at
// the same time, and the weights stay in L2.
#pragma once

#include "cuda/row_pass.cuh"

namespace invcap::cuda {

template <class T>
struct TrimmedProduct {
  const T* in;  // (count, n)
  T* out;
  int64_t count;
  Packed<T> t;
  const T* bias;  // or null
  Wide<T> negative_slope;
  bool aligned;  // rows of in can be read by 16 bytes
};

template <class Math>
constexpr int kStagedStride = kDepth + kRowPadding<typename Math::Tile>;
template <class Math>
constexpr size_t kTrimmedProductBytes =
    kStages * sizeof(typename Math::Tile) *
    (Math::kRows * kStagedStride<Math> + kWeightTile<typename Math::Tile>);

template <class Math, Side side, bool kTransposed>
__global__ void __launch_bounds__(kThreads, kResidentBlocks<Math>)
    trimmed_product(const TrimmedProduct<typename Math::Tile> p) {
  using T = typename Math::Tile;
  constexpr int kRows = Math::kRows, kStride = kStagedStride<Math>;
  SharedArrays arrays;
  const auto staged = arrays.take<T>(kStages * kRows * kStride);
  const auto weights = arrays.take<T>(kStages * kWeightTile<T>);
  const int n = p.t.n, blocks = (n + kColumns - 1) / kColumns, block = blockIdx.x % blocks;
  const int64_t first = static_cast<int64_t>(blockIdx.x / blocks) * kRows;
  const int j0 = (side == Side::below ? block : blocks - 1 - block) * kColumns;

  const auto place = [&](int buffer, int) { return staged + buffer * kRows * kStride; };
  const auto stage = [&](int buffer, int k) {
#pragma unroll
    for (int i = threadIdx.x * kWidth<T>; i < kRows * kDepth; i += kThreads * kWidth<T>) {
      const int row = i / kDepth, column = k + i % kDepth;
      const T* from = p.in + (first + row) * n + column;
      const auto to = place(buffer, k) + (row * kStride + i % kDepth);
      const bool inside = first + row < p.count && column < n;
      if (p.aligned) {
        copy_async<16>(to, inside ? from : p.in, inside);
      } else {
#pragma unroll
        for (int v = 0; v < kWidth<T>; ++v) {
          to[v] = inside && column + v < n ? from[v] : narrow<T>(0);
        }
      }
    }
  };
  Math sum;
  const int begin = side == Side::below ? j0 : 0;
  const int end = side == Side::above && j0 + kColumns < n ? j0 + kColumns : n;
  accumulate<side, kTransposed>(sum, p.t, j0, begin, end, weights, kStride, stage, place);

  sum.template for_each<kTransposed>([&](int row, int column, auto value) {
    const int j = j0 + column;
    if (first + row >= p.count || j >= n) return;
    const auto z = p.bias ? value + widen(p.bias[j]) : value;
    p.out[(first + row) * n + j] = narrow<T>(leaky(z, p.negative_slope));
  });
}

}  // namespace invcap::cuda
