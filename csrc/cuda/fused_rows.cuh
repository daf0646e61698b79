// Whole layers on a tile of rows that never leaves the chip.
//
//     for each tile of kRows rows (one block each):
//       bring it into shared memory
//       for each layer, first to last, or last to first in the inverse:
//         two passes over column blocks (row_pass.cuh), with what the table says around them
//       write it back
//
//     op                before          pass        between     pass        after
//     forward                           x U^T       keep h      h L^T       + b, leaky
//     inverse           leaky^-1, - b   z L^-T      keep h      h U^-T
//     backward          * m, keep gz    gz L        keep gh     gh U
//     inverse_backward                  gx U^-1     keep gh     gh L^-1     keep gz, / m
//
// m is 1, or negative_slope where y < 0. Weights are read once per tile of rows; so kRows is as
// large as shared memory and the number of processors allow.
#pragma once

#include "cuda/row_pass.cuh"

namespace invcap::cuda {

enum class Op { forward, inverse, backward, inverse_backward };
constexpr bool is_solve(Op op) { return op == Op::inverse || op == Op::inverse_backward; }

template <class T>
struct Layer {
  const T* lu;
  const T* bias;           // or null
  const Wide<T>* inverse;  // of the diagonal blocks, for solves
  Wide<T> diagonal, negative_slope;
};

template <class T>
struct FusedRows {
  const T* in;
  T* out;
  T* between;  // h or gh, (count, n); null where nobody needs it
  const T* y;  // whose signs are m, for the backward passes
  T* gz;       // (count, n), for the backward passes
  int64_t count;
  int n, depth;
  bool aligned;  // rows can be accessed by 16 bytes
  Layer<T> layers[kMaxDepth];
};

template <class Math>
size_t fused_rows_bytes(int n) {
  using Tile = typename Math::Tile;
  return sizeof(Tile) * (Math::kRows * row_stride<Tile>(n) + kStages * kWeightTile<Tile>);
}

// f.operator()<width>(row, column) for groups of `width` neighbours, by the same thread each time.
template <class T, class F>
__device__ __forceinline__ void for_own_elements(bool aligned, int rows, int n, const F& f) {
  const auto visit = [&]<int width>(std::integral_constant<int, width>) {
    const int groups = n / width;
    for (int i = threadIdx.x; i < rows * groups; i += kThreads) {
      f.template operator()<width>(i / groups, i % groups * width);
    }
  };
  if (aligned) {
    visit(std::integral_constant<int, kWidth<T>>());
  } else {
    visit(std::integral_constant<int, 1>());
  }
}

template <class Math, class T, Op op>
__global__ void __launch_bounds__(kThreads, kResidentBlocks<Math>)
    fused_rows(const FusedRows<T> p) {
  using Tile = typename Math::Tile;
  constexpr int kRows = Math::kRows;
  SharedArrays arrays;
  RowTile<Tile> rows{arrays.take<Tile>(kRows * row_stride<Tile>(p.n)), row_stride<Tile>(p.n),
                     arrays.take<Tile>(kStages * kWeightTile<Tile>)};
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kRows;
  const int count = p.count - first < kRows ? static_cast<int>(p.count - first) : kRows;

  const auto for_each = [&](const auto& f) { for_own_elements<T>(p.aligned, count, p.n, f); };
  // tile = f(tile, other), where `other` points at the same elements in global memory, or null.
  const auto combine = [&](const T* other, int64_t stride, const auto& f) {
    for_each([&]<int width>(int row, int column) {
      Vector<T, width> values = {};
      if (other) values = load<width>(other + row * stride + column);
#pragma unroll
      for (int i = 0; i < width; ++i) {
        const auto place = rows.data + (row * rows.stride + column + i);
        place[0] = narrow<Tile>(f(place, widen(values.at[i])));
      }
    });
  };
  const auto keep = [&](T* to) {
    for_each([&]<int width>(int row, int column) {
      Vector<T, width> values;
#pragma unroll
      for (int i = 0; i < width; ++i) {
        values.at[i] = narrow<T>(widen(rows.data[row * rows.stride + column + i]));
      }
      store(to + (first + row) * p.n + column, values);
    });
  };

  const int padded = rows.stride - kRowPadding<Tile>;
  for (int i = threadIdx.x; i < kRows * padded; i += kThreads) {
    const int row = i / padded, column = i % padded;
    if (row >= count || column >= p.n) rows.data[row * rows.stride + column] = narrow<Tile>(0);
  }
  combine(p.in + first * p.n, p.n, [](auto, auto value) { return value; });

  const T* y = p.y + first * p.n;
  for (int i = 0; i < p.depth; ++i) {
    const Layer<T>& layer = p.layers[op == Op::inverse ? p.depth - 1 - i : i];
    const auto slope = layer.negative_slope;
    const Packed<T> lu{layer.lu, p.n, layer.diagonal, is_aligned(layer.lu, p.n)};
    const auto as_it_is = [](int, auto sum) { return sum; };
    if constexpr (op == Op::forward) {
      product_pass<Math, Side::below, true>(rows, lu, as_it_is);
    } else if constexpr (op == Op::inverse) {
      combine(layer.bias, 0,
              [&](auto place, auto bias) { return leaky(widen(place[0]), 1 / slope) - bias; });
      solve_pass<Math, Side::above, true>(rows, lu, layer.inverse);
    } else if constexpr (op == Op::backward) {
      combine(y, p.n, [&](auto place, auto y) {
        return y < 0 ? widen(place[0]) * slope : widen(place[0]);
      });
      keep(p.gz);
      product_pass<Math, Side::below, false>(rows, lu, as_it_is);
    } else {
      solve_pass<Math, Side::above, false>(rows, lu, layer.inverse);
    }
    if (p.between) {
      __syncthreads();  // the pass is done
      keep(p.between);
    }
    if constexpr (op == Op::forward) {
      product_pass<Math, Side::above, true>(rows, lu, [&](int column, auto sum) {
        return leaky(layer.bias ? sum + widen(layer.bias[column]) : sum, slope);
      });
    } else if constexpr (op == Op::inverse) {
      solve_pass<Math, Side::below, true>(rows, lu, layer.inverse);
    } else if constexpr (op == Op::backward) {
      product_pass<Math, Side::above, false>(rows, lu, as_it_is);
    } else {
      solve_pass<Math, Side::below, false>(rows, lu, layer.inverse);
    }
    __syncthreads();  // the pass is done
  }
  if constexpr (op == Op::inverse_backward) {
    keep(p.gz);
    combine(y, p.n, [&](auto place, auto y) {
      const auto gz = widen(place[0]);
      return y < 0 ? gz / p.layers[0].negative_slope : gz;
    });
  }
  keep(p.out);
}

}  // namespace invcap::cuda
