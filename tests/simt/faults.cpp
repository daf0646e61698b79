// Small kernels, each with one fault planted, for test_harness.py.
#include <string>

#include "cuda/ptx.cuh"
#include "library.h"

namespace invcap::cuda {
namespace {

constexpr int kThreads = 64;

// Each thread hands its value to its mirror image in the block; `fault` names what goes wrong.
void mirror(const std::string& fault, const float* in, float* out) {
  const int me = threadIdx.x;
  SharedArrays arrays;
  auto values = arrays.take<float>(kThreads);
  auto neighbour = arrays.take<float>(4);
  if (me == 0) neighbour[0] = 0;
  if (fault != "unwritten" || me != 5) values[me] = in[me];
  if (fault == "out of bounds" && me == kThreads - 1) values[me + 1] = 0;
  if (fault == "divergent barrier") {
    if (me < 32) {
      __syncthreads();
    } else {
      __syncthreads();
    }
  } else if (fault == "exited thread") {
    if (me == 40) return;
    __syncthreads();
  } else if (fault != "missing barrier") {
    __syncthreads();
  }
  out[me] = values[kThreads - 1 - me];
  if (fault == "overwritten") values[me] = 0;
}

void copied(const std::string& fault, const float* in, float* out) {
  const int me = threadIdx.x;
  auto values = SharedArrays().take<float>(kThreads);
  copy_async<4>(values + me, in + me, true);
  commit_copies();
  if (fault != "missing wait") wait_for_copies<0>();
  __syncthreads();
  out[me] = values[kThreads - 1 - me];
}

void summed(const std::string& fault, const float* in, float* out) {
  const int me = threadIdx.x;
  float sum = in[me];
  const unsigned mask = fault == "narrow mask"    ? 0xffffu
                        : fault == "uneven masks" ? (me % 2 ? 0x55555555u | 1u << me % 32 : ~0u)
                                                  : ~0u;
  if (fault == "missing lane" && me == 3) return;
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(mask, sum, step);
  out[me] = sum;
}

// Two blocks write a half of `out` each, or the same half, or what their neighbour's half holds.
void between_blocks(const std::string& fault, const float*, float* out) {
  const int half = kThreads / 2, block = blockIdx.x;
  if (fault == "stale") {
    const float neighbour = out[(1 - block) * half + threadIdx.x];
    out[block * half + threadIdx.x] = 1 + neighbour;
  } else {
    out[(fault == "same place" ? 0 : block) * half + threadIdx.x] = 1 + block;
  }
}

// A 16 x 8 product of one warp: a is 16 x 8, b is 8 x 8, both row-major.
void product(const float* a, const float* b, float* out) {
  const int group = threadIdx.x / 4, member = threadIdx.x % 4;
  uint32_t left[4], right[2];
  for (int r = 0; r < 4; ++r) {
    left[r] = __float_as_uint(a[(group + 8 * (r % 2)) * 8 + member + 4 * (r / 2)]);
  }
  for (int r = 0; r < 2; ++r) right[r] = __float_as_uint(b[(member + 4 * r) * 8 + group]);
  float sum[4] = {};
  mma_tf32(sum, left, right);
  for (int r = 0; r < 4; ++r) out[(group + 8 * (r / 2)) * 8 + member * 2 + r % 2] = sum[r];
}

}  // namespace
}  // namespace invcap::cuda

using namespace invcap::cuda;

extern "C" const char* run_mirror(const char* fault, const float* in, float* out) {
  return reported(
      [&] { simt::launch({1}, kThreads, kThreads * 4 + 16, [=] { mirror(fault, in, out); }); });
}
extern "C" const char* run_copied(const char* fault, const float* in, float* out) {
  return reported(
      [&] { simt::launch({1}, kThreads, kThreads * 4, [=] { copied(fault, in, out); }); });
}
extern "C" const char* run_summed(const char* fault, const float* in, float* out) {
  return reported([&] { simt::launch({1}, kThreads, 0, [=] { summed(fault, in, out); }); });
}
extern "C" const char* run_product(const float* a, const float* b, float* out) {
  return reported([&] { simt::launch({1}, 32, 0, [=] { product(a, b, out); }); });
}
extern "C" const char* run_between_blocks(const char* fault, const float* in, float* out) {
  return reported(
      [&] { simt::launch({2}, kThreads / 2, 0, [=] { between_blocks(fault, in, out); }); });
}
extern "C" const char* run_nothing(unsigned x, unsigned y, unsigned z, unsigned threads,
                                   size_t shared_bytes) {
  return reported([&] { simt::launch({x, y, z}, threads, shared_bytes, [] {}); });
}
