// From run-time choices to template arguments: the scalar type, the way of multiplying, the regime.
#pragma once

#include <utility>

#include "cuda/launch.cuh"
#include "cuda/lu_leaky.h"
#include "cuda/tile_matmul.cuh"

namespace invcap::cuda {

template <class T>
struct Type {
  using type = T;
};

template <class T>
const T* as(const void* data) {
  return static_cast<const T*>(data);
}
template <class T>
T* as(void* data) {
  return static_cast<T*>(data);
}

// f(Type<T>) of a problem's scalar type.
template <class F>
void for_scalar(Scalar scalar, const F& f) {
  switch (scalar) {
    case Scalar::float32:
      return f(Type<float>());
    case Scalar::float64:
      return f(Type<double>());
    case Scalar::float16:
      return f(Type<__half>());
    case Scalar::bfloat16:
      return f(Type<__nv_bfloat16>());
  }
}

// f(Type<Math>) for products of operands T, in tiles of kRows rows.
template <class T, int kRows, class F>
void for_math(bool tensor_cores, const F& f) {
  if constexpr (std::is_same_v<T, double>) {
    f(Type<Ffma<double, kRows>>());
  } else if constexpr (!std::is_same_v<T, float>) {
    f(Type<TensorCore<T, kRows>>());
  } else if (tensor_cores) {
    f(Type<Tf32x3<kRows>>());
  } else {
    f(Type<Ffma<float, kRows>>());
  }
}

// The same for solves, which are float32 for float16 and bfloat16: three TF32 products.
template <class T, int kRows, class F>
void for_solve_math(bool tensor_cores, const F& f) {
  constexpr bool kReduced = sizeof(T) == 2;
  for_math<Wide<T>, kRows>(kReduced || tensor_cores, [&](auto math) {
    if constexpr (!kReduced || !std::is_same_v<decltype(math), Type<Ffma<float, kRows>>>) f(math);
  });
}

template <class Integer>
unsigned blocks(Integer count, int size) {
  return static_cast<unsigned>((count + size - 1) / size);
}

// Rows of a fused tile. 64 read the weights least often; 16 make work for four times as many
// processors and fit four times as long rows. 0: rows are too long to stay on the chip, or so many
// that reading all weights for 16 at a time would cost more than writing h out and reading it back.
template <class Bytes>
int fused_tile_rows(const Device& device, int64_t rows, const Bytes& bytes) {
  const bool fits_64 = bytes(64) <= device.shared_bytes, fits_16 = bytes(16) <= device.shared_bytes;
  if (fits_64 && rows > 32 * device.processors) return 64;
  if (fits_16 && (fits_64 || rows <= 32 * device.processors)) return 16;
  return 0;
}

}  // namespace invcap::cuda
