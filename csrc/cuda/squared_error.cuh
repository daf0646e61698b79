// The weighted squared error between predicted and true noise, and its gradient, in one pass.
//
//     loss[p] = weight[p] * sum (predicted[p] - noise[p])^2
//     gradient[p] = 2 weight[p] (predicted[p] - noise[p])
//
// A block takes one image: thread t the elements t, t + 256, ... (in vectors of 16 bytes where
// images allow), a warp adds its lanes by shuffles, the first thread adds the warps in their
// order. Bandwidth-bound: two reads and one write an element.
#pragma once

#include "cuda/tile_matmul.cuh"

namespace invcap::cuda {

constexpr int kErrorWarps = kThreads / 32;

template <class T, int width>
__global__ void __launch_bounds__(kThreads)
    squared_error(const T* predicted, const T* noise, const Wide<T>* weight, int64_t size,
                  Wide<T>* loss, T* gradient) {
  const auto sums = SharedArrays().take<Wide<T>>(kErrorWarps);
  const int64_t first = blockIdx.x * size;
  const Wide<T> w = weight[blockIdx.x];
  Wide<T> sum = 0;
  for (int64_t i = threadIdx.x * width; i < size; i += kThreads * width) {
    const auto a = load<width>(predicted + first + i), b = load<width>(noise + first + i);
    Vector<T, width> slope;
#pragma unroll
    for (int v = 0; v < width; ++v) {
      const Wide<T> difference = widen(a.at[v]) - widen(b.at[v]);
      sum += difference * difference;
      slope.at[v] = narrow<T>(2 * w * difference);
    }
    store(gradient + first + i, slope);
  }
#pragma unroll
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = sum;
  __syncthreads();  // all warps have handed in
  if (threadIdx.x == 0) {
    Wide<T> total = 0;
    for (int warp = 0; warp < kErrorWarps; ++warp) total += sums[warp];
    loss[blockIdx.x] = w * total;
  }
}

template <class T>
constexpr size_t kSquaredErrorBytes = kErrorWarps * sizeof(Wide<T>);

}  // namespace invcap::cuda
