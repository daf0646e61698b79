// From run-time choices to template arguments: the scalar type, the way of multiplying, the regime.
#pragma once

#include <utility>

#include "cuda/launch.cuh"
#include "cuda/launchers.h"
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

// The same in tiles of another type: float for float16 and bfloat16 is three TF32 products.
template <class T, class Tile, int kRows, class F>
void for_tile_math(bool tensor_cores, const F& f) {
  constexpr bool kWidened = sizeof(T) < sizeof(Tile);
  for_math<Tile, kRows>(kWidened || tensor_cores, [&](auto math) {
    if constexpr (!kWidened || !std::is_same_v<decltype(math), Type<Ffma<float, kRows>>>) f(math);
  });
}

template <class Integer>
unsigned blocks(Integer count, int size) {
  return static_cast<unsigned>((count + size - 1) / size);
}

// The regimes. A fused tile takes its column blocks one after another, so it pays once there are
// tiles for all processors; 64 rows read the weights least often. Before that:
//   - a product is shared out by columns, too: two launches, each with n / 64 times as many blocks.
//     Only where there are next to no columns to share does one launch of 16-row tiles do better;
//   - a solve has nothing else to share out: it stays fused, 16 rows at a time, while they fit.
// Once there are tiles for all processors, a library solves long rows faster in tiles of its own.
constexpr int kFewColumns = 256;

inline bool fills(const Device& device, int64_t rows) { return rows > 32 * device.processors; }

// Rows of a fused tile for a product; 0: two products, out of place.
template <class Bytes>
int fused_product_rows(const Device& device, int64_t rows, int n, const Bytes& bytes) {
  if (fills(device, rows) && bytes(64) <= device.shared_bytes) return 64;
  return n <= kFewColumns && bytes(16) <= device.shared_bytes ? 16 : 0;
}

// Rows of a fused tile for a solve; 0: the rows do not stay on the chip.
constexpr int kLongRow = 512;
template <class Bytes>
int fused_solve_rows(const Device& device, int64_t rows, int n, const Bytes& bytes) {
  const bool full = fills(device, rows);
  if (full && bytes(64) <= device.shared_bytes) return 64;
  return (!full || n <= kLongRow) && bytes(16) <= device.shared_bytes ? 16 : 0;
}

// Rows of a tile of a product out of place: many, as soon as such tiles fill the chip.
template <class T>
constexpr int kTallRows = std::is_same_v<T, double> ? 16 : 128;
constexpr int kShortRows = 16;

}  // namespace invcap::cuda
