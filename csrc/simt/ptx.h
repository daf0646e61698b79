// CPU versions of the instructions in cuda/ptx.cuh, under the same names.
#pragma once

#include <cstring>

#include "simt/cuda.h"

namespace invcap::cuda {

using simt::Shared;
using simt::Site;

template <int kBytes, class T>
void copy_async(Shared<T> to, const T* from, bool valid, Site site = Site::current()) {
  simt::copy_async<kBytes>(to.checked(kBytes, site), from, valid, site);
}
inline void commit_copies() { simt::commit_copies(); }
template <int kInFlight>
void wait_for_copies(Site site = Site::current()) {
  simt::wait_for_copies(kInFlight, site);
}

// Sums terms as a tensor core of sm_80: each is truncated at 24 bits below the leading bit of the
// largest, and the sum is truncated to the 24 bits of a float32. (sm_90 keeps one bit more.)
template <size_t kTerms>
double truncated_sum(const double (&terms)[kTerms]) {
  double most = 0, plain = 0;
  for (const double term : terms) {
    most = most < std::fabs(term) ? std::fabs(term) : most;
    plain += term;
  }
  const auto power = std::bit_cast<double>(std::bit_cast<uint64_t>(most) & 0x7ff0000000000000u);
  if (!(power > 0) || !std::isfinite(plain)) return plain;
  const double scale = 0x1p24 / power;
  int32_t sum = 0;
  for (const double term : terms) sum += static_cast<int32_t>(term * scale);
  return std::bit_cast<double>(std::bit_cast<uint64_t>(sum / scale) & ~uint64_t{0x1fffffff});
}

// D += A B of a warp, with the lanes' fragments as in the PTX manual. Half of the depth is summed
// at once.
template <class Operand, int kDepth>
void matrix_multiply_add(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Site site) {
  struct Lane {
    float* d;
    const uint32_t *a, *b;
  } lane{d, a, b};
  simt::collective(
      0xffffffffu, lane,
      [](const auto& lanes) {
        constexpr int kPacked = 4 / sizeof(Operand);  // operands a register
        const auto operand = [](const uint32_t* registers, int i, int packed) {
          Operand value;
          std::memcpy(&value, reinterpret_cast<const char*>(registers + i) + packed * sizeof(value),
                      sizeof(value));
          return value.to_float();
        };
        double left[16][kDepth], right[kDepth][8];
        for (int i = 0; i < simt::kWarp; ++i) {
          const int group = i / 4, member = i % 4;
          for (int p = 0; p < kPacked; ++p) {
            for (int r = 0; r < 4; ++r) {
              left[group + 8 * (r % 2)][member * kPacked + p + kDepth / 2 * (r / 2)] =
                  operand(lanes[i]->a, r, p);
            }
            for (int r = 0; r < 2; ++r) {
              right[member * kPacked + p + kDepth / 2 * r][group] = operand(lanes[i]->b, r, p);
            }
          }
        }
        double sums[16][8];
        const auto sum = [&sums](int lane, int r) -> double& {
          return sums[lane / 4 + 8 * (r / 2)][lane % 4 * 2 + r % 2];
        };
        for (int i = 0; i < simt::kWarp; ++i) {
          for (int r = 0; r < 4; ++r) sum(i, r) = lanes[i]->d[r];
        }
        constexpr int kAtOnce = kDepth / 2;
        for (int row = 0; row < 16; ++row) {
          for (int column = 0; column < 8; ++column) {
            for (int first = 0; first < kDepth; first += kAtOnce) {
              double terms[kAtOnce + 1] = {sums[row][column]};
              for (int k = 0; k < kAtOnce; ++k) {
                terms[1 + k] = left[row][first + k] * right[first + k][column];
              }
              sums[row][column] = truncated_sum(terms);
            }
          }
        }
        for (int i = 0; i < simt::kWarp; ++i) {
          for (int r = 0; r < 4; ++r) lanes[i]->d[r] = static_cast<float>(sum(i, r));
        }
      },
      site);
}

struct Tf32Operand {
  float value;
  // The hardware ignores the 13 lowest bits.
  float to_float() const {
    return std::bit_cast<float>(std::bit_cast<uint32_t>(value) & 0xffffe000u);
  }
};
struct Bf16Operand {
  __nv_bfloat16 value;
  float to_float() const { return __bfloat162float(value); }
};
struct F16Operand {
  __half value;
  float to_float() const { return __half2float(value); }
};

inline void mma_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                     Site site = Site::current()) {
  matrix_multiply_add<Tf32Operand, 8>(d, a, b, site);
}
inline void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], __nv_bfloat16,
                Site site = Site::current()) {
  matrix_multiply_add<Bf16Operand, 16>(d, a, b, site);
}
inline void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], __half,
                Site site = Site::current()) {
  matrix_multiply_add<F16Operand, 16>(d, a, b, site);
}

// Consecutive arrays in shared memory.
class SharedArrays {
 public:
  template <class T>
  Shared<T> take(int count) {
    const size_t begin = used_;
    used_ += (count * sizeof(T) + 15) / 16 * 16;
    return {begin, begin + count * sizeof(T)};
  }

 private:
  size_t used_ = 0;
};

template <class Value, class T>
Value load_shared(Shared<T> from, Site site = Site::current()) {
  return from.template read<Value>(site);
}
template <class Value, class T>
void store_shared(Shared<T> to, const Value& value, Site site = Site::current()) {
  to.write(value, site);
}

}  // namespace invcap::cuda
