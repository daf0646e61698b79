// One triangular product or solve on a tile of rows that stays in shared memory, in place.
//
//     product:  for column blocks J, in the order in which T's triangle empties:
//                 sum = rows[:, K] T[K, J] over the K on T's side of J, J itself included
//                 rows[:, J] = finish(sum)                   (nobody needs the old J any more)
//     solve:    for column blocks J, in the opposite order:
//                 rows[:, J] -= rows[:, K] T[K, J] over the K already solved
//                 rows[:, J] = rows[:, J] T[J, J]^-1         (inverted beforehand)
//
// K goes in steps of 32; while one tile of T is multiplied the next two are on their way.
#pragma once

#include "cuda/triangle.cuh"

namespace invcap::cuda {

constexpr int kStages = 3;  // tiles of T on the chip

template <class Tile>
struct RowTile {
  Shared<Tile> data;
  int stride;
  Shared<Tile> weights;  // kStages tiles
};

// Columns in shared memory: whole blocks, padded so that rows start at different banks.
template <class Tile>
__host__ __device__ constexpr int row_stride(int n) {
  return (n + kColumns - 1) / kColumns * kColumns + kRowPadding<Tile>;
}

// sum += a[:, begin : end] T[begin : end, j0 : j0 + 64], where a(buffer, k) says where the columns
// from k on lie in shared memory and stage(buffer, k) starts to bring them there.
template <Side side, bool kTransposed, class Math, class T, class Stage, class Place>
__device__ __forceinline__ void accumulate(Math& sum, const Packed<T>& matrix, int j0, int begin,
                                           int end, Shared<typename Math::Tile> weights,
                                           int a_stride, const Stage& stage, const Place& a) {
  constexpr int kTile = kWeightTile<typename Math::Tile>;
  const auto start = [&](int step) {
    const int k = begin + step * kDepth, buffer = step % kStages;
    if (k < end) {
      load_weights<kTransposed>(weights + buffer * kTile, matrix, k, j0);
      stage(buffer, k);
    }
    commit_copies();  // empty or not: waits count groups
  };
  for (int step = 0; step < kStages - 1; ++step) start(step);
  for (int k = begin, step = 0; k < end; k += kDepth, ++step) {
    const auto current = weights + step % kStages * kTile;
    wait_for_copies<kStages - 2>();
    mask_weights<side, kTransposed>(current, matrix, k, j0);
    __syncthreads();  // this step has landed, the previous one has been read
    start(step + kStages - 1);
    sum.template multiply_add<kTransposed>(a(step % kStages, k), a_stride, current);
  }
  __syncthreads();  // all has been read: rows and buffers are free
}

template <Side side, bool kTransposed, class Math, class T>
__device__ __forceinline__ void accumulate_rows(Math& sum, const RowTile<typename Math::Tile>& rows,
                                                const Packed<T>& matrix, int j0, int begin, int end,
                                                int first_column = 0) {
  accumulate<side, kTransposed>(
      sum, matrix, j0, begin, end, rows.weights, rows.stride, [](int, int) {},
      [&](int, int k) { return rows.data + (first_column + k); });
}

// finish(column, sum): what becomes of a sum on its way to the tile.
template <class Math, Side side, bool kTransposed, class T, class Finish>
__device__ __forceinline__ void product_pass(const RowTile<typename Math::Tile>& rows,
                                             const Packed<T>& t, const Finish& finish) {
  const int blocks = (t.n + kColumns - 1) / kColumns;
  for (int block = 0; block < blocks; ++block) {
    const int j0 = (side == Side::below ? block : blocks - 1 - block) * kColumns;
    Math sum;
    accumulate_rows<side, kTransposed>(sum, rows, t, j0, side == Side::below ? j0 : 0,
                                       side == Side::below ? t.n : j0 + kColumns);
    sum.template for_each<kTransposed>([&](int row, int column, auto value) {
      const int j = j0 + column;
      rows.data[row * rows.stride + j] =
          narrow<typename Math::Tile>(j < t.n ? finish(j, value) : 0);
    });
  }
}

// inverse: the inverted diagonal blocks, 64 x 64 each, packed as T itself is.
template <class Math, Side side, bool kTransposed, class T>
__device__ __forceinline__ void solve_pass(const RowTile<typename Math::Tile>& rows,
                                           const Packed<T>& t, const Wide<T>* inverse) {
  const int blocks = (t.n + kColumns - 1) / kColumns;
  for (int i = 0; i < blocks; ++i) {
    const int block = side == Side::below ? blocks - 1 - i : i, j0 = block * kColumns;
    const int begin = side == Side::below ? j0 + kColumns : 0;
    const int end = side == Side::below ? t.n : j0;
    if (begin < end) {
      Math sum;
      accumulate_rows<side, kTransposed>(sum, rows, t, j0, begin, end);
      sum.template for_each<kTransposed>([&](int row, int column, auto value) {
        const auto place = rows.data + (row * rows.stride + j0 + column);
        place[0] = place[0] - value;
      });
    }
    const Packed<Wide<T>> diagonal_block{inverse + block * kColumns * kColumns, kColumns,
                                         1 / t.diagonal, true};
    Math sum;
    accumulate_rows<side, kTransposed>(sum, rows, diagonal_block, 0, 0, kColumns, j0);
    sum.template for_each<kTransposed>([&](int row, int column, auto value) {
      rows.data[row * rows.stride + j0 + column] = value;
    });
  }
}

}  // namespace invcap::cuda
