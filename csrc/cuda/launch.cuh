// Launches kernels: on a GPU, or in tests on the harness of csrc/simt/.
#pragma once

#include <cstddef>
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

inline Device device() {
  int index = 0, major = 0, minor = 0, processors = 0, shared_bytes = 0;
  check(cudaGetDevice(&index), "which device");
  const auto ask = [&](int& value, cudaDeviceAttr attribute) {
    check(cudaDeviceGetAttribute(&value, attribute, index), "attribute of the device");
  };
  ask(major, cudaDevAttrComputeCapabilityMajor);
  ask(minor, cudaDevAttrComputeCapabilityMinor);
  ask(processors, cudaDevAttrMultiProcessorCount);
  ask(shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin);
  if (major < 8) {
    throw std::runtime_error("invcap_ext needs a GPU of compute capability 8.0 or newer, got " +
                             std::to_string(major) + "." + std::to_string(minor));
  }
  return {processors, static_cast<size_t>(shared_bytes)};
}

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), Grid grid, unsigned threads, size_t shared_bytes,
            cudaStream_t stream, const Arguments&... arguments) {
  if (const size_t most = device().shared_bytes; shared_bytes > most) {
    throw std::runtime_error("a kernel needs " + std::to_string(shared_bytes) +
                             " bytes of shared memory, this GPU has " + std::to_string(most));
  }
  // Beyond 48 KiB a kernel has to ask.
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(shared_bytes)),
        "shared memory of a kernel");
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
