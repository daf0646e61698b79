// What launches the kernels of the layer y = leaky_relu(L U x + b) and of the squared error: raw
// pointers and a stream, no torch.
//
// The mathematics, the names and the packed storage are those of cpu/lu_leaky.h. All arrays are
// contiguous and of one scalar type, save for `inverse` and `work`, which are float (double for
// float64). Everything is asynchronous on the stream, and bitwise the same from run to run. Errors
// of a launch throw std::runtime_error.
#pragma once

#include <cstddef>
#include <cstdint>

namespace invcap::cuda {

enum class Scalar : int { float32, float64, float16, bfloat16 };

struct Problem {
  Scalar scalar;
  bool tensor_cores;  // float32 as three TF32 products; float16 and bfloat16 use them always
  int64_t rows;
  int n;
  void* stream;  // cudaStream_t
};

struct LayerPointers {
  const void* lu;    // (n, n)
  const void* bias;  // (n,) or null
  void* inverse;     // of the diagonal blocks, for the solves: see invert_blocks
  double diagonal;
  double negative_slope;
};

constexpr int kBlock = 64;  // size of a diagonal block

// Elements of `inverse`: 64 x 64 for each diagonal block, twice.
constexpr int64_t inverse_elements(int n) {
  return static_cast<int64_t>((n + kBlock - 1) / kBlock) * kBlock * kBlock * 2;
}
// Makes all layers ready for solves. Only what has changed since the last time is inverted; an
// `inverse` that was never used is to be filled with NaN.
void invert_blocks(const Problem& problem, const LayerPointers* layers, int depth);

// Whether rows stay on the chip through all layers, which then are one launch. Those that do not
// are multiplied layer by layer, and are not solved here.
bool products_on_chip(const Problem& problem);  // forward
bool solves_on_chip(const Problem& problem);    // inverse, inverse_backward

// h: (rows, n), of the layer that comes last; or null where rows stay on the chip.
void forward(const Problem& problem, const LayerPointers* layers, int depth, const void* x, void* y,
             void* h);
void inverse(const Problem& problem, const LayerPointers* layers, int depth, const void* y, void* x,
             void* h);

// The row-wise part of backward: gx, and the gz and gh that weight_gradient takes.
void backward(const Problem& problem, const LayerPointers& layer, const void* gy, const void* y,
              void* gx, void* gz, void* gh);
void inverse_backward(const Problem& problem, const LayerPointers& layer, const void* gx,
                      const void* y, void* gy, void* gz, void* gh);

// glu = sign (strict_lower(gz^T h) + strict_upper(gh^T x)), gb = sign sum gz.
// work: gradient_work_elements(problem) of them.
int64_t gradient_work_elements(const Problem& problem);
void weight_gradient(const Problem& problem, double sign, const void* gz, const void* h,
                     const void* gh, const void* x, void* glu, void* gb, void* work);

// loss[p] = weight[p] |predicted[p] - noise[p]|^2 for images of `size` elements, and its gradient
// by predicted. weight, loss: (images,), float (double for float64). One pass over the data.
void squared_error(Scalar scalar, int64_t images, int64_t size, const void* predicted,
                   const void* noise, const void* weight, void* loss, void* gradient, void* stream);

}  // namespace invcap::cuda
