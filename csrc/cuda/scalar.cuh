// Scalars, their vectors of 16 bytes, and the types that sums are kept in.
#pragma once

#include <type_traits>

#include "cuda/ptx.cuh"

namespace invcap::cuda {

// Sums, biases and slopes: float, or double for double.
template <class T>
using Wide = std::conditional_t<std::is_same_v<T, double>, double, float>;

__device__ __forceinline__ float widen(float a) { return a; }
__device__ __forceinline__ double widen(double a) { return a; }
__device__ __forceinline__ float widen(__nv_bfloat16 a) { return __bfloat162float(a); }
__device__ __forceinline__ float widen(__half a) { return __half2float(a); }

template <class T>
__device__ __forceinline__ T narrow(Wide<T> a) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return __float2bfloat16(a);
  } else if constexpr (std::is_same_v<T, __half>) {
    return __float2half(a);
  } else {
    return a;
  }
}

// Elements of T in an access of 16 bytes.
template <class T>
constexpr int kWidth = 16 / sizeof(T);

template <class T, int kCount>
struct alignas(sizeof(T) * kCount) Vector {
  T at[kCount];
};

template <int kCount, class T>
__device__ __forceinline__ Vector<T, kCount> load(const T* from) {
  return *reinterpret_cast<const Vector<T, kCount>*>(from);
}
template <class T, int kCount>
__device__ __forceinline__ void store(T* to, const Vector<T, kCount>& values) {
  *reinterpret_cast<Vector<T, kCount>*>(to) = values;
}

// Whether rows of n elements can be accessed by 16 bytes.
template <class T>
__host__ __device__ bool is_aligned(const T* data, int n) {
  return n % kWidth<T> == 0 && reinterpret_cast<uintptr_t>(data) % 16 == 0;
}

// A vector of which `count` elements are there, zeros behind them; if `aligned`, all or none.
template <class T>
__device__ __forceinline__ Vector<T, kWidth<T>> load_some(const T* from, bool aligned, int count) {
  if (aligned && count > 0) return load<kWidth<T>>(from);
  Vector<T, kWidth<T>> values = {};
#pragma unroll
  for (int i = 0; i < kWidth<T>; ++i) {
    if (!aligned && i < count) values.at[i] = from[i];
  }
  return values;
}

template <class T>
__device__ __forceinline__ T leaky(T z, T slope) {
  return z < 0 ? z * slope : z;
}

}  // namespace invcap::cuda
