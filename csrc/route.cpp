#include "route.h"

#include <ATen/Context.h>
#include <ATen/native/CPUBlas.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <limits>
#include <optional>

namespace invcap {
namespace {

constexpr std::array kNames{"chosen", "dense", "fused", "tiles"};
constexpr int64_t kNever = std::numeric_limits<int64_t>::max();
// The smallest n for which other ways than the usual one can be faster.
constexpr int64_t kLeastOnCpu = 256;
std::atomic<Way> forced = Way::chosen;

// Whether torch's products may round to TF32. Our own kernels then use three TF32 products, which
// keep the accuracy of float32; a dense product would lose it.
bool rounds_to_tf32(at::ScalarType dtype) {
  return dtype == at::kFloat &&
         at::globalContext().float32Precision(at::Float32Backend::CUDA, at::Float32Op::MATMUL) ==
             at::Float32Precision::TF32;
}

bool is_half(at::ScalarType dtype) { return dtype == at::kHalf || dtype == at::kBFloat16; }

// Whether this processor has matrix units for the dtype.
bool multiplies_in_tiles(at::ScalarType dtype) { return at::native::cpublas::could_pack(dtype); }

// With n = 1, a flat L U could not be distinguished from h.
std::optional<int64_t> forced_rows(int64_t n) {
  const Way way = forced;
  if (way == Way::chosen) return std::nullopt;
  return way == Way::dense && n > 1 ? 0 : kNever;
}

}  // namespace

std::string force_way(const std::string& name) {
  const auto found = std::find(kNames.begin(), kNames.end(), name);
  TORCH_CHECK_VALUE(found != kNames.end(), "way must be 'dense', 'fused' or 'tiles', got '", name,
                    "'");
  return kNames[static_cast<int>(forced.exchange(static_cast<Way>(found - kNames.begin())))];
}

Way forced_way() { return forced; }

// The table. The dense way costs about 1 + n / (3 rows) dense layers, whatever the hardware;
// kernels of our own, whatever n and the rows:
//   CPU, float32 and float64: 0.9 to 1.2 dense layers forward, 1.05 to 1.6 a step. Measured with
//     AVX2, and with AVX-512 and AMX. Steps of 8,192 rows are where the dense way is faster: 1.05
//     to 1.16 against 1.18 to 1.3 (n = 768 and 1024, AVX2); at 2,048 it is slower, 1.25 to 1.35
//     against 1.03 to 1.14.
//   CPU, bfloat16 where it is multiplied in AMX tiles: 5 dense layers, since they work in float32.
//     Elsewhere a dense layer in half precision is slower than they are.
//   GPU: 2 to 6 dense layers forward, 4 to 7 back, as predicted, against some 25 launches; but
//     where n is small, a whole network stays on the chip in one launch if it keeps no graph.
//     benchmarks/cuda_predictions.py has where the ways are predicted to meet.
int64_t dense_rows(int64_t n, at::ScalarType dtype, c10::DeviceType device, bool keeps_graph) {
  if (const auto rows = forced_rows(n)) return *rows;
  if (device == c10::DeviceType::CUDA) {
    if (rounds_to_tf32(dtype) || n < (keeps_graph ? 256 : 512)) return kNever;
    return n < 512 ? 16384 : n <= 1024 ? 1024 : std::max<int64_t>(2048, n);
  }
  if (device != c10::DeviceType::CPU || n < kLeastOnCpu) return kNever;
  if (is_half(dtype)) return multiplies_in_tiles(dtype) ? std::max<int64_t>(64, n / 8) : kNever;
  return std::max<int64_t>(8192, 2 * n);
}

// Comparing the weights reads 2 n^2 numbers. On a CPU that is 2 % of a product of 2,048 rows, and
// substitution costs 1.1 to 1.2 products; on a GPU it costs 13 to 70 (predicted). Not for float64:
// there is no more accurate dtype to check an inverse with.
int64_t kept_rows(int64_t n, at::ScalarType dtype, c10::DeviceType device) {
  if (dtype == at::kDouble) return kNever;
  if (const auto rows = forced_rows(n)) return *rows;
  if (device == c10::DeviceType::CUDA) return rounds_to_tf32(dtype) ? kNever : 0;
  if (device != c10::DeviceType::CPU || n < kLeastOnCpu) return kNever;
  if (is_half(dtype)) return multiplies_in_tiles(dtype) ? 64 : kNever;
  return 2048;
}

}  // namespace invcap
