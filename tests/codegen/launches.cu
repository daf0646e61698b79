// cuda/launch.cuh as nvcc compiles it, on a run time (runtime.cpp) that only keeps the rules.
#include <functional>
#include <thread>

#include "cuda/launch.cuh"

extern std::function<void()> between_attribute_and_launch;

namespace {

__global__ void nothing() {}

void start(size_t shared_bytes) { invcap::cuda::launch(nothing, {1}, 32, shared_bytes, nullptr); }

}  // namespace

// Launches with `shared_bytes`; while it does, another thread launches with `other_bytes`, if any.
// Returns what went wrong, or an empty string.
extern "C" const char* launch(size_t shared_bytes, size_t other_bytes) {
  static std::string message;
  message.clear();
  const auto reported = [](size_t bytes) {
    try {
      start(bytes);
    } catch (const std::exception& error) {
      message = error.what();
    }
  };
  if (other_bytes) {
    between_attribute_and_launch = [=] { std::thread(reported, other_bytes).join(); };
  }
  reported(shared_bytes);
  return message.c_str();
}
