// Launches kernels: on a GPU, or in tests on the harness of csrc/simt/.
#pragma once

#include <cstddef>
#include <map>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>

#include "cuda/ptx.cuh"

namespace invcap::cuda {

struct Grid {
  unsigned x = 1, y = 1, z = 1;
};

// What a device offers to the choice of a launch.
struct Device {
  int processors;
  size_t shared_bytes;  // a block may have
};

#ifdef __CUDACC__

inline void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  throw std::runtime_error(std::string("CUDA: ") + what + ": " + cudaGetErrorString(error));
}

// What the current device offers, asked once. Beyond 48 KiB of shared memory a `kernel` has to ask;
// it asks once, for all there is: a launch of less, by another thread, takes nothing away.
inline Device device(const void* kernel = nullptr) {
  static std::mutex mutex;
  static std::map<int, Device> known;
  static std::set<std::pair<const void*, int>> allowed;
  int index = 0, major = 0, processors = 0, bytes = 0;
  check(cudaGetDevice(&index), "which device");
  const std::lock_guard lock(mutex);
  if (!known.contains(index)) {
    const auto ask = [&](int& value, cudaDeviceAttr attribute) {
      check(cudaDeviceGetAttribute(&value, attribute, index), "attribute of the device");
    };
    ask(major, cudaDevAttrComputeCapabilityMajor);
    ask(processors, cudaDevAttrMultiProcessorCount);
    ask(bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin);
    if (major < 8) {
      throw std::runtime_error("invcap_ext needs a GPU of compute capability 8.0 or newer, got " +
                               std::to_string(major) + ".x");
    }
    known[index] = {processors, static_cast<size_t>(bytes)};
  }
  const Device found = known[index];
  if (kernel && !allowed.contains({kernel, index})) {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(found.shared_bytes)),
          "shared memory of a kernel");
    allowed.insert({kernel, index});
  }
  return found;
}

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), Grid grid, unsigned threads, size_t shared_bytes,
            cudaStream_t stream, const Arguments&... arguments) {
  const size_t most = device(reinterpret_cast<const void*>(kernel)).shared_bytes;
  if (shared_bytes > most) {
    throw std::runtime_error("a kernel needs " + std::to_string(shared_bytes) +
                             " bytes of shared memory, this GPU has " + std::to_string(most));
  }
  kernel<<<dim3(grid.x, grid.y, grid.z), threads, shared_bytes, stream>>>(arguments...);
  check(cudaGetLastError(), "launch");
}

#else

inline Device device() { return {simt::settings.processors, simt::settings.shared_limit}; }

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), Grid grid, unsigned threads, size_t shared_bytes,
            cudaStream_t, const Arguments&... arguments) {
  simt::launch({grid.x, grid.y, grid.z}, threads, shared_bytes, [&] { kernel(arguments...); });
}

#endif

}  // namespace invcap::cuda
