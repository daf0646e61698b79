// The instructions that CUDA C++ has no word for, and pointers to shared memory.
//
// simt/ptx.h holds a host twin of everything here, for the tests that run the kernels on a CPU.
#pragma once

#ifndef __CUDACC__
#include "simt/ptx.h"
#else

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace invcap::cuda {

template <class T>
using Shared = T*;

// Arrays of shared memory, one behind the other, each on a boundary of 16 bytes.
class SharedArrays {
 public:
  __device__ SharedArrays() {
    extern __shared__ __align__(16) unsigned char shared_memory[];
    next_ = shared_memory;
  }
  template <class T>
  __device__ Shared<T> take(int count) {
    T* array = reinterpret_cast<T*>(next_);
    next_ += (count * sizeof(T) + 15) / 16 * 16;
    return array;
  }

 private:
  unsigned char* next_;
};

// One access of sizeof(Value) bytes, where `Value` may be a vector.
template <class Value, class T>
__device__ __forceinline__ Value load_shared(Shared<T> from) {
  return *reinterpret_cast<const Value*>(from);
}
template <class Value, class T>
__device__ __forceinline__ void store_shared(Shared<T> to, const Value& value) {
  *reinterpret_cast<Value*>(to) = value;
}

// Copies kBytes (16, 8 or 4) from global memory past the registers, or zeros where not `valid`.
template <int kBytes, class T>
__device__ __forceinline__ void copy_async(Shared<T> to, const T* from, bool valid) {
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  const int bytes = valid ? kBytes : 0;
  if constexpr (kBytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from),
                 "r"(bytes)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(address), "l"(from),
                 "n"(kBytes), "r"(bytes)
                 : "memory");
  }
}
__device__ __forceinline__ void commit_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
// Waits until at most kInFlight of this thread's committed groups are on their way.
template <int kInFlight>
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kInFlight) : "memory");
}

// D += A B of a warp: D 16 x 8, A 16 x 8 (TF32: the 19 upper bits of a float) or 16 x 16, B 8 or
// 16 x 8.
#define INVCAP_MMA(shape_and_types)                                     \
  asm volatile("mma.sync.aligned." shape_and_types                      \
               " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};" \
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])         \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))
__device__ __forceinline__ void mma_tf32(float (&d)[4], const uint32_t (&a)[4],
                                         const uint32_t (&b)[2]) {
  INVCAP_MMA("m16n8k8.row.col.f32.tf32.tf32.f32");
}
__device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                    __nv_bfloat16) {
  INVCAP_MMA("m16n8k16.row.col.f32.bf16.bf16.f32");
}
__device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                    __half) {
  INVCAP_MMA("m16n8k16.row.col.f32.f16.f16.f32");
}
#undef INVCAP_MMA

}  // namespace invcap::cuda

#endif
