// Launchers of the sums over a batch: weight and bias gradients.
#include <algorithm>

#include "cuda/dispatch.cuh"
#include "cuda/weight_gradient.cuh"

namespace invcap::cuda {
namespace {

// Chosen by sizes alone, so that sums come out the same on every device.
struct Slices {
  int weights, bias;
};
Slices slices(const Problem& problem) {
  const auto most = [&](int64_t rows_a_slice) {
    return static_cast<int>(std::clamp<int64_t>(problem.rows / rows_a_slice, 1, 256));
  };
  const int tiles = blocks(problem.n, kColumns) * blocks(problem.n, kColumns);
  return {std::min(most(128), std::max(1, 256 / tiles)), most(512)};
}

}  // namespace

int64_t gradient_work_elements(const Problem& problem) {
  const auto [weights, bias] = slices(problem);
  return (static_cast<int64_t>(weights) * problem.n + bias) * problem.n;
}

void weight_gradient(const Problem& problem, double sign, const void* gz, const void* h,
                     const void* gh, const void* x, void* glu, void* gb, void* work) {
  const auto [weights, bias] = slices(problem);
  const int n = problem.n;
  const auto stream = static_cast<cudaStream_t>(problem.stream);
  for_scalar(problem.scalar, [&](auto type) {
    using T = typename decltype(type)::type;
    auto* partial = as<Wide<T>>(work);
    auto* bias_partial = partial + static_cast<int64_t>(weights) * n * n;
    const T *gz_rows = as<T>(gz), *h_rows = as<T>(h), *gh_rows = as<T>(gh), *x_rows = as<T>(x);
    const bool aligned = is_aligned(gz_rows, n) && is_aligned(h_rows, n) &&
                         is_aligned(gh_rows, n) && is_aligned(x_rows, n);
    const WeightGradient<T> p{
        gz_rows, h_rows, gh_rows, x_rows, partial, problem.rows, blocks(problem.rows, weights),
        n,       aligned};
    for_math<T, kColumns>(problem.tensor_cores, [&](auto math) {
      using Math = typename decltype(math)::type;
      launch(weight_gradient<Math, T>,
             {blocks(n, kColumns) * (blocks(n, kColumns) + 1), static_cast<unsigned>(weights)},
             kThreads, kWeightGradientBytes<Math>, stream, p);
    });
    launch(bias_gradient<T>, {blocks(n, kThreads), static_cast<unsigned>(bias)}, kThreads, 0,
           stream, p.gz, problem.rows, static_cast<int64_t>(blocks(problem.rows, bias)), n,
           bias_partial);
    const auto sum = [&](const Wide<T>* from, int slices, int64_t count, void* to) {
      launch(sum_slices<T>, {blocks(count, kThreads)}, kThreads, 0, stream, from, slices, count,
             static_cast<Wide<T>>(sign), as<T>(to));
    };
    sum(partial, weights, static_cast<int64_t>(n) * n, glu);
    sum(bias_partial, bias, n, gb);
  });
}

}  // namespace invcap::cuda
