// The building block of all matrix kernels: a block of 256 threads adds the product of two tiles in
// shared memory to sums in registers,
//
//     sum[kRows, 64] += a[kRows, 32] w[32, 64]
//
// Three ways of doing it, chosen by type: Ffma (one product at a time: float32, float64),
// TensorCore (bfloat16, float16) and Tf32x3 (float32 on tensor cores).
//
// a is row-major. w lies as global memory has it: w[k][j], or transposed w[j][k]; both orders are
// read without a copy. Rows of both are padded so that the lanes of a warp meet different banks.
#pragma once

#include "cuda/scalar.cuh"

namespace invcap::cuda {

constexpr int kThreads = 256;
constexpr int kColumns = 64;   // of a tile of sums: 8 warps find 8 columns each, or 4 x 2 squares
constexpr int kMaxDepth = 64;  // layers a launch: their pointers travel as kernel arguments
constexpr int kDepth = 32;     // of a step: two tensor-core depths, one 64- or 128-byte line of w

// Blocks that share a multiprocessor, hence registers a thread may have: 128, or 255 for float64.
template <class Math>
constexpr int kResidentBlocks = sizeof(typename Math::Tile) == 8 ? 1 : 2;

// A tile w[32, 64] in shared memory, in either order.
template <class T, bool kTransposed>
struct WeightTile {
  static constexpr int kOuter = kTransposed ? kColumns : kDepth;
  static constexpr int kInner = kTransposed ? kDepth : kColumns;
  static constexpr int kStride = kInner + (kTransposed ? kWidth<T> : 8);
  static constexpr int kElements = kOuter * kStride;
};
// Elements that hold a tile in whichever order.
template <class T>
constexpr int kWeightTile = WeightTile<T, true>::kElements > WeightTile<T, false>::kElements
                                ? WeightTile<T, true>::kElements
                                : WeightTile<T, false>::kElements;
template <class T>
constexpr int kRowPadding = kWidth<T>;

// Thread t owns kRows / 16 neighbouring rows and four columns, and reads vectors along k.
template <class T, int kRowCount>
struct Ffma {
  using Tile = T;
  static constexpr int kRows = kRowCount;
  static constexpr int kOwnRows = kRows / 16, kOwnColumns = 4;
  T sum[kOwnRows][kOwnColumns] = {};

  template <bool kTransposed>
  static __device__ int column(int i) {
    const int lane = threadIdx.x % 16;
    return kTransposed ? lane + 16 * i : lane * kOwnColumns + i;
  }

  template <bool kTransposed>
  __device__ void multiply_add(Shared<T> a, int a_stride, Shared<T> w) {
    constexpr int kStride = WeightTile<T, kTransposed>::kStride, kStep = kWidth<T>;
    const int first_row = threadIdx.x / 16 * kOwnRows;
#pragma unroll 2
    for (int k = 0; k < kDepth; k += kStep) {
      Vector<T, kStep> left[kOwnRows];
      T right[kStep][kOwnColumns];
#pragma unroll
      for (int r = 0; r < kOwnRows; ++r) {
        left[r] = load_shared<Vector<T, kStep>>(a + ((first_row + r) * a_stride + k));
      }
      if constexpr (kTransposed) {
#pragma unroll
        for (int c = 0; c < kOwnColumns; ++c) {
          const auto values = load_shared<Vector<T, kStep>>(w + (column<true>(c) * kStride + k));
#pragma unroll
          for (int i = 0; i < kStep; ++i) right[i][c] = values.at[i];
        }
      } else {
#pragma unroll
        for (int i = 0; i < kStep; ++i) {
#pragma unroll
          for (int c = 0; c < kOwnColumns; c += kStep) {
            const auto values =
                load_shared<Vector<T, kStep>>(w + ((k + i) * kStride + column<false>(c)));
#pragma unroll
            for (int v = 0; v < kStep; ++v) right[i][c + v] = values.at[v];
          }
        }
      }
#pragma unroll
      for (int i = 0; i < kStep; ++i) {
#pragma unroll
        for (int r = 0; r < kOwnRows; ++r) {
#pragma unroll
          for (int c = 0; c < kOwnColumns; ++c) sum[r][c] += left[r].at[i] * right[i][c];
        }
      }
    }
  }

  // f(row, column, sum) for each sum of this thread.
  template <bool kTransposed, class F>
  __device__ void for_each(const F& f) const {
#pragma unroll
    for (int r = 0; r < kOwnRows; ++r) {
#pragma unroll
      for (int c = 0; c < kOwnColumns; ++c) {
        f(static_cast<int>(threadIdx.x) / 16 * kOwnRows + r, column<kTransposed>(c), sum[r][c]);
      }
    }
  }
};

// What both tensor-core ways share: a warp owns 16 rows and kTiles tiles of 8 columns. In a tile,
// lane 4 g + m holds sums at rows g and g + 8, columns 2 m and 2 m + 1.
template <int kRowCount>
struct WarpTiles {
  static constexpr int kRows = kRowCount;
  static constexpr int kTiles = kRows / 16;
  float sum[kTiles][4] = {};

  static __device__ int group() { return threadIdx.x % 32 / 4; }
  static __device__ int member() { return threadIdx.x % 4; }
  static __device__ int first_row() { return threadIdx.x / 32 % (kRows / 16) * 16; }
  static __device__ int first_column() { return threadIdx.x / 32 / (kRows / 16) * kTiles * 8; }

  template <bool kTransposed, class F>
  __device__ void for_each(const F& f) const {
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        f(first_row() + group() + i / 2 * 8, first_column() + t * 8 + member() * 2 + i % 2,
          sum[t][i]);
      }
    }
  }
};

// bfloat16 or float16 operands, float32 sums.
template <class T, int kRowCount>
struct TensorCore : WarpTiles<kRowCount> {
  using Tile = T;
  using Base = WarpTiles<kRowCount>;

  static __device__ uint32_t packed(T first, T second) {
    const T pair[2] = {first, second};
    uint32_t bits;
    memcpy(&bits, pair, sizeof(bits));
    return bits;
  }

  template <bool kTransposed>
  __device__ void multiply_add(Shared<T> a, int a_stride, Shared<T> w) {
    constexpr int kStride = WeightTile<T, kTransposed>::kStride;
    const int group = Base::group(), member = Base::member();
#pragma unroll
    for (int k = 0; k < kDepth; k += 16) {
      uint32_t left[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = Base::first_row() + group + i % 2 * 8;
        left[i] = load_shared<uint32_t>(a + (row * a_stride + k + member * 2 + i / 2 * 8));
      }
#pragma unroll
      for (int t = 0; t < Base::kTiles; ++t) {
        const int column = Base::first_column() + t * 8 + group;
        uint32_t right[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int depth = k + member * 2 + i * 8;
          if constexpr (kTransposed) {
            right[i] = load_shared<uint32_t>(w + (column * kStride + depth));
          } else {
            right[i] = packed(w[depth * kStride + column], w[(depth + 1) * kStride + column]);
          }
        }
        mma(Base::sum[t], left, right, T{});
      }
    }
  }
};

// float32 = big + small, both TF32; a w = big big + big small + small big, which leaves out only
// small small, 2^-22 of the product. Tensor cores cut sums off instead of rounding them, so each
// depth of 8 gets sums of its own, which are added as any float32: the error of plain float32.
template <int kRowCount>
struct Tf32x3 : WarpTiles<kRowCount> {
  using Tile = float;
  using Base = WarpTiles<kRowCount>;

  // big is rounded to nearest and never infinite: an infinity, or NaN, is in small alone. Of small,
  // a tensor core cuts off the two bits that it cannot hold.
  static __device__ void split(float a, uint32_t& big, uint32_t& small) {
    constexpr float kMost = 0x1.ffcp127f;  // of TF32
    big = (__float_as_uint(fmaxf(fminf(a, kMost), -kMost)) + 0x1000) & 0xffffe000;
    small = __float_as_uint(a - __uint_as_float(big));
  }

  template <bool kTransposed>
  __device__ void multiply_add(Shared<float> a, int a_stride, Shared<float> w) {
    constexpr int kStride = WeightTile<float, kTransposed>::kStride;
    const int group = Base::group(), member = Base::member();
#pragma unroll 2
    for (int k = 0; k < kDepth; k += 8) {
      uint32_t big_left[4], small_left[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = Base::first_row() + group + i % 2 * 8;
        split(a[row * a_stride + k + member + i / 2 * 4], big_left[i], small_left[i]);
      }
#pragma unroll
      for (int t = 0; t < Base::kTiles; ++t) {
        const int column = Base::first_column() + t * 8 + group;
        uint32_t big_right[2], small_right[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int depth = k + member + i * 4;
          split(w[kTransposed ? column * kStride + depth : depth * kStride + column], big_right[i],
                small_right[i]);
        }
        float part[4] = {};
        mma_tf32(part, small_left, big_right);
        mma_tf32(part, big_left, small_right);
        mma_tf32(part, big_left, big_right);
#pragma unroll
        for (int i = 0; i < 4; ++i) Base::sum[t][i] += part[i];
      }
    }
  }
};

}  // namespace invcap::cuda
