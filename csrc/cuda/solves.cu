// Launchers of the directions that solve: the inverse, and its backward.
#include "cuda/fused_launch.cuh"
#include "cuda/invert_blocks.cuh"
#include "cuda/window_solve.cuh"

namespace invcap::cuda {
namespace {

static_assert(kBlock == kColumns);

// The widest window of a long row whose tile of kRows fits in shared memory.
template <class Math>
int window_columns(const Device& device) {
  int width = kMaxWindow;
  while (width > kColumns && fused_rows_bytes<Math>(width) > device.shared_bytes) width -= kColumns;
  return width;
}

// One solve in place with everything in global memory, window by window:
//     rows[:, W] -= rows[:, solved] T[solved, W]       one trimmed product
//     rows[:, W] = rows[:, W] T[W, W]^-1               one fused solve
template <class T, Side side, bool kTransposed>
void solve(const Problem& problem, const LayerPointers& layer, Wide<T>* rows) {
  const int n = problem.n;
  const auto stream = static_cast<cudaStream_t>(problem.stream);
  const T* lu = as<T>(layer.lu);
  const Packed<T> t{lu, n, n, static_cast<Wide<T>>(layer.diagonal), is_aligned(lu, n)};
  for_tile_math<T, Wide<T>, 16>(problem.tensor_cores, [&](auto math) {
    using Math = typename decltype(math)::type;
    const int width = window_columns<Math>(device()), windows = (n + width - 1) / width;
    for (int i = 0; i < windows; ++i) {
      const int first = (side == Side::below ? windows - 1 - i : i) * width;
      const int last = std::min(first + width, n);
      const int begin = side == Side::below ? last : 0, end = side == Side::below ? n : first;
      if (begin < end) {
        launch_trimmed<side, kTransposed>(
            problem, TrimmedProduct<T, Wide<T>>{rows, rows, problem.rows, t, nullptr, 1, first,
                                                last, begin, end, true, is_aligned(rows, n)});
      }
      const WindowSolve<T> window{rows + first, problem.rows, n,
                                  Packed<T>{lu + static_cast<int64_t>(first) * n + first,
                                            last - first, n, t.diagonal, t.aligned},
                                  as<Wide<T>>(layer.inverse) + first * kColumns};
      launch(window_solve<Math, T, side, kTransposed>, {blocks(problem.rows, Math::kRows)},
             kThreads, fused_rows_bytes<Math>(last - first), stream, window);
    }
  });
}

}  // namespace

void invert_blocks(const Problem& problem, const LayerPointers* layers, int depth) {
  for_scalar(problem.scalar, [&](auto type) {
    using T = typename decltype(type)::type;
    for (int done = 0; done < depth; done += kMaxDepth) {
      InvertBlocks<T> p{problem.n, {}};
      const int count = std::min(kMaxDepth, depth - done);
      for (int i = 0; i < count; ++i) {
        const LayerPointers& layer = layers[done + i];
        p.layers[i] = {as<T>(layer.lu), as<Wide<T>>(layer.inverse), layer.diagonal};
      }
      launch(invert_blocks<T>, {blocks(problem.n, kColumns), static_cast<unsigned>(count)},
             kInvertThreads, kInvertBytes, static_cast<cudaStream_t>(problem.stream), p);
    }
  });
}

int64_t solve_work_elements(const Problem& problem) {
  bool fused = false;
  for_scalar(problem.scalar, [&](auto type) {
    using T = typename decltype(type)::type;
    fused = fused_rows_of<Op::inverse, T>(problem);
  });
  return fused ? 0 : problem.rows * problem.n;
}

void inverse(const Problem& problem, const LayerPointers* layers, int depth, const void* y, void* x,
             void* h, void* work) {
  if (problem.rows == 0) return;
  for_scalar(problem.scalar, [&](auto type) {
    using T = typename decltype(type)::type;
    if (const int rows = fused_rows_of<Op::inverse, T>(problem)) {
      return launch_fused_network<Op::inverse, T>(problem, rows, layers, depth,
                                                  {y, x, h, nullptr, nullptr});
    }
    auto* rows = as<Wide<T>>(work);
    for (int i = depth - 1; i >= 0; --i) {
      const double slope = layers[i].negative_slope;
      if (i == depth - 1) {
        map<Element::before_inverse, T>(problem, as<T>(y), layers[i].bias, rows, slope);
      } else {
        map<Element::before_inverse, T>(problem, rows, layers[i].bias, rows, slope);
      }
      solve<T, Side::above, true>(problem, layers[i], rows);
      if (h) map<Element::convert, T>(problem, rows, nullptr, as<T>(h), 1);
      solve<T, Side::below, true>(problem, layers[i], rows);
    }
    map<Element::convert, T>(problem, rows, nullptr, as<T>(x), 1);
  });
}

void inverse_backward(const Problem& problem, const LayerPointers& layer, const void* gx,
                      const void* y, void* gy, void* gz, void* gh, void* work) {
  if (problem.rows == 0) return;
  for_scalar(problem.scalar, [&](auto type) {
    using T = typename decltype(type)::type;
    if (const int rows = fused_rows_of<Op::inverse_backward, T>(problem)) {
      return launch_fused<Op::inverse_backward, T>(problem, rows, &layer, 1, {gx, gy, gh, y, gz});
    }
    auto* rows = as<Wide<T>>(work);
    map<Element::convert, T>(problem, as<T>(gx), nullptr, rows, 1);
    solve<T, Side::above, false>(problem, layer, rows);
    map<Element::convert, T>(problem, rows, nullptr, as<T>(gh), 1);
    solve<T, Side::below, false>(problem, layer, rows);
    map<Element::convert, T>(problem, rows, nullptr, as<T>(gz), 1);
    map<Element::over_m, T>(problem, rows, y, as<T>(gy), layer.negative_slope);
  });
}

}  // namespace invcap::cuda
