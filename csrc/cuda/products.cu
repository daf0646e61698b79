// Launchers of the directions that multiply: forward, and its backward.
#include "cuda/elementwise.cuh"
#include "cuda/few_rows.cuh"
#include "cuda/fused_launch.cuh"
#include "cuda/trimmed_product.cuh"

namespace invcap::cuda {
namespace {

// In tiles of many rows as soon as such tiles fill the chip.
template <Side side, bool kTransposed, class T>
void launch_trimmed(const Problem& problem, const TrimmedProduct<T>& p) {
  const unsigned column_blocks = blocks(problem.n, kColumns);
  const auto start = [&](auto math) {
    using Math = typename decltype(math)::type;
    launch(trimmed_product<Math, side, kTransposed>, {blocks(p.count, Math::kRows) * column_blocks},
           kThreads, kTrimmedProductBytes<Math>, static_cast<cudaStream_t>(problem.stream), p);
  };
  if (blocks(p.count, 128) * column_blocks >= static_cast<unsigned>(device().processors)) {
    for_math<T, kTallRows<T>>(problem.tensor_cores, start);
  } else {
    for_math<T, kShortRows>(problem.tensor_cores, start);
  }
}

// One product out of place, with everything in global memory.
template <class T, Side side, bool kTransposed>
void product(const Problem& problem, const LayerPointers& layer, const T* bias,
             double negative_slope, const T* in, T* out) {
  const int n = problem.n;
  const auto stream = static_cast<cudaStream_t>(problem.stream);
  const T* lu = as<T>(layer.lu);
  const Packed<T> t{lu, n, static_cast<Wide<T>>(layer.diagonal), is_aligned(lu, n)};
  const auto slope = static_cast<Wide<T>>(negative_slope);
  if (problem.rows > kFewRows) {
    return launch_trimmed<side, kTransposed>(
        problem, TrimmedProduct<T>{in, out, problem.rows, t, bias, slope, is_aligned(in, n)});
  }
  const FewRows<T> p{in, out, static_cast<int>(problem.rows), t, bias, slope};
  if constexpr (kTransposed) {
    launch(few_rows_transposed<T, side>, {blocks(n, kWarps)}, kThreads, 0, stream, p);
  } else {
    launch(few_rows_straight<T, side>, {blocks(n, 32 * kWidth<T>)}, kThreads,
           kFewRowsStraightBytes<T>, stream, p);
  }
}

// Rows of a fused tile; 0 where two products do better.
template <Op op, class T>
int fused_or_few(const Problem& problem) {
  return problem.rows <= kFewRows ? 0 : fused_rows_of<op, T>(problem);
}

}  // namespace

bool products_on_chip(const Problem& problem) {
  bool fits = false;
  for_scalar(problem.scalar, [&](auto type) {
    using T = typename decltype(type)::type;
    fits = fused_or_few<Op::forward, T>(problem);
  });
  return fits;
}

void forward(const Problem& problem, const LayerPointers* layers, int depth, const void* x, void* y,
             void* h) {
  if (problem.rows == 0) return;
  for_scalar(problem.scalar, [&](auto type) {
    using T = typename decltype(type)::type;
    if (const int rows = fused_or_few<Op::forward, T>(problem)) {
      return launch_fused_network<Op::forward, T>(problem, rows, layers, depth,
                                                  {x, y, h, nullptr, nullptr});
    }
    for (int i = 0; i < depth; ++i) {
      const LayerPointers& layer = layers[i];
      product<T, Side::below, true>(problem, layer, nullptr, 1, as<T>(i ? y : x), as<T>(h));
      product<T, Side::above, true>(problem, layer, as<T>(layer.bias), layer.negative_slope,
                                    as<T>(h), as<T>(y));
    }
  });
}

void backward(const Problem& problem, const LayerPointers& layer, const void* gy, const void* y,
              void* gx, void* gz, void* gh) {
  if (problem.rows == 0) return;
  for_scalar(problem.scalar, [&](auto type) {
    using T = typename decltype(type)::type;
    if (const int rows = fused_or_few<Op::backward, T>(problem)) {
      return launch_fused<Op::backward, T>(problem, rows, &layer, 1, {gy, gx, gh, y, gz});
    }
    const int64_t count = problem.rows * problem.n;
    launch(times_m<T>, {blocks(count, kElementThreads)}, kElementThreads, 0,
           static_cast<cudaStream_t>(problem.stream), as<T>(gy), as<T>(y), as<T>(gz), count,
           static_cast<Wide<T>>(layer.negative_slope));
    product<T, Side::below, false>(problem, layer, nullptr, 1, as<T>(gz), as<T>(gh));
    product<T, Side::above, false>(problem, layer, nullptr, 1, as<T>(gh), as<T>(gx));
  });
}

}  // namespace invcap::cuda
