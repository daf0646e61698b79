// The keywords and functions of CUDA C++ that the kernels use, for g++.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "simt/shared.h"
#include "simt/simt.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define threadIdx simt::thread_index()
#define blockIdx simt::block_index()
#define gridDim simt::grid_size()

using cudaStream_t = void*;

inline void __syncthreads(simt::Site site = simt::Site::current()) { simt::barrier(site); }
inline int __syncthreads_or(int predicate, simt::Site site = simt::Site::current()) {
  return simt::barrier(site, predicate != 0);
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, simt::Site site = simt::Site::current()) {
  struct Lane {
    T in, out;
  } lane{value, value};
  simt::collective(
      mask, lane,
      [&](const auto& lanes) {
        for (int i = 0; i < simt::kWarp; ++i) {
          if (!lanes[i]) continue;
          const Lane* other = lanes[i ^ lane_mask];
          if (!other) simt::fail("shuffle from a lane that its mask leaves out", site);
          lanes[i]->out = other->in;
        }
      },
      site);
  return lane.out;
}

inline float __uint_as_float(uint32_t bits) { return std::bit_cast<float>(bits); }
inline uint32_t __float_as_uint(float a) { return std::bit_cast<uint32_t>(a); }

// The upper half of a float32, rounded to nearest even.
struct __nv_bfloat16 {
  uint16_t bits;
};
inline float __bfloat162float(__nv_bfloat16 a) { return std::bit_cast<float>(a.bits << 16); }
inline __nv_bfloat16 __float2bfloat16(float a) {
  const auto bits = std::bit_cast<uint32_t>(a);
  if (std::isnan(a)) return {0x7fff};
  return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

struct __half {
  _Float16 value;
};
inline float __half2float(__half a) { return a.value; }
inline __half __float2half(float a) { return {static_cast<_Float16>(a)}; }
