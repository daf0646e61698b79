// Tiles of a triangular matrix T in packed storage, read from global into shared memory.
//
// Rows of a batch are multiplied from the right, so T is one of L, U (straight: T[k][j] is
// lu[k][j]) and L^T, U^T (transposed: lu[j][k]). `Side` says where T is not zero:
//
//     L, U^T: below, k >= j        U, L^T: above, k <= j
//
// The stored diagonal is never used, since both factors have the constant one; and what lies
// beyond it belongs to the other factor. Copies are raw: after they have landed, each thread puts
// the diagonal and the zeros into those elements that it copied itself.
#pragma once

#include "cuda/tile_matmul.cuh"

namespace invcap::cuda {

enum class Side { below, above };

template <class T>
struct Packed {
  const T* data;
  int n;
  Wide<T> diagonal;
  bool aligned;  // rows can be read by 16 bytes
};

// f(outer, inner) for each vector of the tile that this thread copies.
template <class T, class Tile, bool kTransposed, class F>
__device__ __forceinline__ void for_own_vectors(const F& f) {
  constexpr int kInner = WeightTile<Tile, kTransposed>::kInner, kStep = kWidth<T>;
#pragma unroll
  for (int i = threadIdx.x * kStep; i < kDepth * kColumns; i += kThreads * kStep) {
    f(i / kInner, i % kInner);
  }
}

// Starts to copy T[k0 : k0 + 32, j0 : j0 + 64], zeros beyond n.
template <bool kTransposed, class T, class Tile>
__device__ __forceinline__ void load_weights(Shared<Tile> tile, const Packed<T>& matrix, int k0,
                                             int j0) {
  for_own_vectors<T, Tile, kTransposed>([&](int outer, int inner) {
    const int row = outer + (kTransposed ? j0 : k0), column = inner + (kTransposed ? k0 : j0);
    const T* from = matrix.data + static_cast<int64_t>(row) * matrix.n + column;
    const auto to = tile + (outer * WeightTile<Tile, kTransposed>::kStride + inner);
    const bool inside = row < matrix.n && column < matrix.n;
    if constexpr (std::is_same_v<T, Tile>) {
      if (matrix.aligned) {
        copy_async<16>(to, inside ? from : matrix.data, inside);
        return;
      }
    }
    const auto values = load_some(from, matrix.aligned, inside ? matrix.n - column : 0);
#pragma unroll
    for (int i = 0; i < kWidth<T>; ++i) to[i] = narrow<Tile>(widen(values.at[i]));
  });
}

// Once this thread's copies have landed: the constant on the diagonal, zeros on its other side.
template <Side side, bool kTransposed, class T, class Tile>
__device__ __forceinline__ void mask_weights(Shared<Tile> tile, const Packed<T>& matrix, int k0,
                                             int j0) {
  if (k0 + kDepth <= j0 || k0 >= j0 + kColumns) return;
  for_own_vectors<T, Tile, kTransposed>([&](int outer, int inner) {
#pragma unroll
    for (int i = 0; i < kWidth<T>; ++i) {
      const int k = k0 + (kTransposed ? inner + i : outer);
      const int j = j0 + (kTransposed ? outer : inner + i);
      const auto to = tile + (outer * WeightTile<Tile, kTransposed>::kStride + inner + i);
      if (k == j) {
        to[0] = narrow<Tile>(matrix.diagonal);
      } else if ((k < j) == (side == Side::below)) {
        to[0] = narrow<Tile>(0);
      }
    }
  });
}

}  // namespace invcap::cuda
