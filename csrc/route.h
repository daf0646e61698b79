// Which way a call takes.
#pragma once

#include <c10/core/DeviceType.h>
#include <c10/core/ScalarType.h>

#include <cstdint>
#include <string>

namespace invcap {

// chosen: by the table in route.cpp. dense: L U as one matrix (dense.h). fused: kernels that take
// rows as they are, meant for a few on a CPU, and for those that fit on the chip on a GPU. tiles:
// kernels that go tile by tile.
enum class Way { chosen, dense, fused, tiles };

// Makes all calls of this process take one way, for tests; returns the name of the way before.
std::string force_way(const std::string& name);
Way forced_way();

// At least so many rows of n numbers take the dense way forward.
int64_t dense_rows(int64_t n, at::ScalarType dtype, c10::DeviceType device, bool keeps_graph);

// At least so many rows go back by an inverse that the module keeps (kept.py), without gradients.
int64_t kept_rows(int64_t n, at::ScalarType dtype, c10::DeviceType device);

}  // namespace invcap
