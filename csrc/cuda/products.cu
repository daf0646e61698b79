// Launchers of the directions that multiply: forward, and its backward.
#include "cuda/few_rows.cuh"
#include "cuda/fused_launch.cuh"

namespace invcap::cuda {
namespace {

// One product out of place, with everything in global memory.
template <class T, Side side, bool kTransposed>
void product(const Problem& problem, const LayerPointers& layer, const T* bias,
             double negative_slope, const T* in, T* out) {
  const int n = problem.n;
  const auto stream = static_cast<cudaStream_t>(problem.stream);
  const T* lu = as<T>(layer.lu);
  const Packed<T> t{lu, n, n, static_cast<Wide<T>>(layer.diagonal), is_aligned(lu, n)};
  const auto slope = static_cast<Wide<T>>(negative_slope);
  if (problem.rows > kFewRows) {
    return launch_trimmed<side, kTransposed>(
        problem, TrimmedProduct<T, T>{in, out, problem.rows, t, bias, slope, 0, n, 0, n, false,
                                      is_aligned(in, n)});
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

int64_t product_work_elements(const Problem& problem) {
  bool fused = false;
  for_scalar(problem.scalar, [&](auto type) {
    using T = typename decltype(type)::type;
    fused = fused_or_few<Op::forward, T>(problem);
  });
  return fused ? 0 : problem.rows * problem.n;
}

void forward(const Problem& problem, const LayerPointers* layers, int depth, const void* x, void* y,
             void* h, void* work) {
  if (problem.rows == 0) return;
  for_scalar(problem.scalar, [&](auto type) {
    using T = typename decltype(type)::type;
    if (const int rows = fused_or_few<Op::forward, T>(problem)) {
      return launch_fused_network<Op::forward, T>(problem, rows, layers, depth,
                                                  {x, y, h, nullptr, nullptr});
    }
    T* between = as<T>(h ? h : work);
    for (int i = 0; i < depth; ++i) {
      const LayerPointers& layer = layers[i];
      product<T, Side::below, true>(problem, layer, nullptr, 1, as<T>(i ? y : x), between);
      product<T, Side::above, true>(problem, layer, as<T>(layer.bias), layer.negative_slope,
                                    between, as<T>(y));
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
    map<Element::times_m, T>(problem, as<T>(gy), y, as<T>(gz), layer.negative_slope);
    product<T, Side::below, false>(problem, layer, nullptr, 1, as<T>(gz), as<T>(gh));
    product<T, Side::above, false>(problem, layer, nullptr, 1, as<T>(gh), as<T>(gx));
  });
}

}  // namespace invcap::cuda
