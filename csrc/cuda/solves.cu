// Launchers of the directions that solve, on rows that stay on the chip: the inverse, and its
// backward.
#include "cuda/fused_launch.cuh"
#include "cuda/invert_blocks.cuh"

namespace invcap::cuda {

static_assert(kBlock == kColumns);

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

bool solves_on_chip(const Problem& problem) {
  bool fits = false;
  for_scalar(problem.scalar, [&](auto type) {
    using T = typename decltype(type)::type;
    fits = fused_rows_of<Op::inverse, T>(problem);
  });
  return fits;
}

void inverse(const Problem& problem, const LayerPointers* layers, int depth, const void* y, void* x,
             void* h) {
  if (problem.rows == 0) return;
  for_scalar(problem.scalar, [&](auto type) {
    using T = typename decltype(type)::type;
    launch_fused_network<Op::inverse, T>(problem, fused_rows_of<Op::inverse, T>(problem), layers,
                                         depth, {y, x, h, nullptr, nullptr});
  });
}

void inverse_backward(const Problem& problem, const LayerPointers& layer, const void* gx,
                      const void* y, void* gy, void* gz, void* gh) {
  if (problem.rows == 0) return;
  for_scalar(problem.scalar, [&](auto type) {
    using T = typename decltype(type)::type;
    launch_fused<Op::inverse_backward, T>(problem, fused_rows_of<Op::inverse_backward, T>(problem),
                                          &layer, 1, {gx, gy, gh, y, gz});
  });
}

}  // namespace invcap::cuda
