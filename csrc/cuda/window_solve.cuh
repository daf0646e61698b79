// One triangular solve, in place, with the window of T and of the rows that starts at one column:
// the diagonal step of a solve on rows that are too long to stay in shared memory.
#pragma once

#include "cuda/row_pass.cuh"

namespace invcap::cuda {

template <class T>
struct WindowSolve {
  Wide<T>* rows;  // at the first column of the window
  int64_t count;
  int stride;
  Packed<T> t;             // of the window
  const Wide<T>* inverse;  // of the window's diagonal blocks
};

template <class Math, class T, Side side, bool kTransposed>
__global__ void __launch_bounds__(kThreads, kResidentBlocks<Math>)
    window_solve(const WindowSolve<T> p) {
  using Tile = typename Math::Tile;
  constexpr int kRows = Math::kRows;
  SharedArrays arrays;
  RowTile<Tile> rows{arrays.take<Tile>(kRows * row_stride<Tile>(p.t.n)), row_stride<Tile>(p.t.n),
                     arrays.take<Tile>(kStages * kWeightTile<Tile>)};
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kRows;
  const int padded = rows.stride - kRowPadding<Tile>;
  const auto for_each = [&](const auto& f) {
    for (int i = threadIdx.x; i < kRows * padded; i += kThreads) {
      const int row = i / padded, column = i % padded;
      const bool inside = first + row < p.count && column < p.t.n;
      f(rows.data[row * rows.stride + column], p.rows + (first + row) * p.stride + column, inside);
    }
  };
  for_each([](auto&& own, Wide<T>* place, bool inside) { own = inside ? *place : Tile(0); });
  solve_pass<Math, side, kTransposed>(rows, p.t, p.inverse);
  __syncthreads();  // the pass is done
  for_each([](auto&& own, Wide<T>* place, bool inside) {
    if (inside) *place = own;
  });
}

}  // namespace invcap::cuda
