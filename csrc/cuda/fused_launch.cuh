// Launches what both directions have in common: fused_rows, for whole networks and single layers.
#pragma once

#include <algorithm>

#include "cuda/dispatch.cuh"
#include "cuda/fused_rows.cuh"

namespace invcap::cuda {

struct FusedArguments {
  const void* in;
  void* out;
  void* between;
  const void* y;
  void* gz;

  template <class T>
  bool aligned(int n) const {
    return is_aligned(as<T>(in), n) && is_aligned(as<T>(out), n) && is_aligned(as<T>(between), n) &&
           is_aligned(as<T>(y), n) && is_aligned(as<T>(gz), n);
  }
};

// f(Type<Math>) of an operation in tiles of 64 or of 16 rows.
template <Op op, class T, class F>
void for_op_math(bool tensor_cores, int rows, const F& f) {
  using Tile = std::conditional_t<is_solve(op), Wide<T>, T>;
  if (rows == 64) {
    for_tile_math<T, Tile, 64>(tensor_cores, f);
  } else {
    for_tile_math<T, Tile, 16>(tensor_cores, f);
  }
}

// Rows of the tile that `op` takes for this problem; 0 if none fits.
template <Op op, class T>
int fused_rows_of(const Problem& problem) {
  const auto bytes = [&](int rows) {
    size_t result = 0;
    for_op_math<op, T>(problem.tensor_cores, rows, [&](auto math) {
      result = fused_rows_bytes<typename decltype(math)::type>(problem.n);
    });
    return result;
  };
  return is_solve(op) ? fused_solve_rows(device(), problem.rows, problem.n, bytes)
                      : fused_product_rows(device(), problem.rows, problem.n, bytes);
}

template <Op op, class T>
void launch_fused(const Problem& problem, int tile_rows, const LayerPointers* layers, int depth,
                  const FusedArguments& arguments) {
  const int n = problem.n;
  FusedRows<T> p{as<T>(arguments.in),
                 as<T>(arguments.out),
                 as<T>(arguments.between),
                 as<T>(arguments.y),
                 as<T>(arguments.gz),
                 problem.rows,
                 n,
                 depth,
                 arguments.template aligned<T>(n),
                 {}};
  for (int i = 0; i < depth; ++i) {
    p.layers[i] = {as<T>(layers[i].lu), as<T>(layers[i].bias), as<Wide<T>>(layers[i].inverse),
                   static_cast<Wide<T>>(layers[i].diagonal),
                   static_cast<Wide<T>>(layers[i].negative_slope)};
    p.aligned = p.aligned && is_aligned(p.layers[i].bias, n);
  }
  for_op_math<op, T>(problem.tensor_cores, tile_rows, [&](auto math) {
    using Math = typename decltype(math)::type;
    launch(fused_rows<Math, T, op>, {blocks(problem.rows, Math::kRows)}, kThreads,
           fused_rows_bytes<Math>(n), static_cast<cudaStream_t>(problem.stream), p);
  });
}

// In launches of kMaxDepth layers, through `out`: a tile reads its rows before it writes them.
template <Op op, class T>
void launch_fused_network(const Problem& problem, int tile_rows, const LayerPointers* layers,
                          int depth, FusedArguments arguments) {
  for (int done = 0; done < depth; done += kMaxDepth) {
    const int count = std::min(kMaxDepth, depth - done);
    const int first = op == Op::inverse ? depth - done - count : done;
    launch_fused<op, T>(problem, tile_rows, layers + first, count, arguments);
    arguments.in = arguments.out;
  }
}

}  // namespace invcap::cuda
