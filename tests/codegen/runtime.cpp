// As much of the CUDA run time as launch.cuh calls, for two devices that run nothing: a launch
// fails where a GPU would refuse it.
#include <cuda_runtime_api.h>

#include <functional>
#include <map>
#include <utility>

std::function<void()> between_attribute_and_launch;  // called once

namespace {

constexpr int kSharedBytes[] = {227 << 10, 99 << 10};  // of the two devices
int current = 0, questions = 0, launches = 0;
std::map<std::pair<const void*, int>, int> allowed;
struct {
  dim3 grid, block;
  size_t shared_bytes;
  void* stream;
} thread_local configuration;
cudaError_t thread_local last = cudaSuccess;

}  // namespace

extern "C" {

void use_device(int device) { current = device; }
int asked() { return std::exchange(questions, 0); }
int launched() { return std::exchange(launches, 0); }

cudaError_t cudaGetDevice(int* device) {
  *device = current;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  ++questions;
  *value = attribute == cudaDevAttrMaxSharedMemoryPerBlockOptin ? kSharedBytes[device]
           : attribute == cudaDevAttrMultiProcessorCount        ? 132
                                                                : 9;
  return cudaSuccess;
}
cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute, int value) {
  ++questions;
  if (value > kSharedBytes[current]) return cudaErrorInvalidValue;
  allowed[{kernel, current}] = value;
  return cudaSuccess;
}
cudaError_t cudaLaunchKernel(const void* kernel, dim3, dim3, void**, size_t shared_bytes,
                             cudaStream_t) {
  const auto found = allowed.find({kernel, current});
  const int most = found == allowed.end() ? 48 << 10 : found->second;
  last = static_cast<int>(shared_bytes) <= most ? cudaSuccess : cudaErrorInvalidValue;
  launches += last == cudaSuccess;
  return last;
}
cudaError_t cudaGetLastError() { return std::exchange(last, cudaSuccess); }
const char* cudaGetErrorString(cudaError_t) { return "refused"; }

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared_bytes, void* stream) {
  if (const auto call = std::exchange(between_attribute_and_launch, nullptr)) call();
  configuration = {grid, block, shared_bytes, stream};
  return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared_bytes,
                                       void* stream) {
  *grid = configuration.grid;
  *block = configuration.block;
  *shared_bytes = configuration.shared_bytes;
  *static_cast<void**>(stream) = configuration.stream;
  return cudaSuccess;
}
cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* function) {
  *kernel = reinterpret_cast<cudaKernel_t>(const_cast<void*>(function));
  return cudaSuccess;
}
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** arguments,
                               size_t shared_bytes, cudaStream_t stream) {
  return cudaLaunchKernel(kernel, grid, block, arguments, shared_bytes, stream);
}
void** __cudaRegisterFatBinary(void*) {
  static void* handle = nullptr;
  return &handle;
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
void __cudaRegisterFunction(void**, const char*, char*, const char*, int, uint3*, uint3*, dim3*,
                            dim3*, int*) {}
char __cudaInitModule(void**) { return 0; }
}
