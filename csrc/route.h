// The choice between the implementations (ways) of a layer.
#pragma once

#include <c10/core/DeviceType.h>
#include <c10/core/ScalarType.h>

#include <cstdint>
#include <string>

namespace invcap {

// chosen: by the table in route.cpp. dense: L U as one matrix (dense.h). fused: kernels that
// process whole rows: on a CPU for few rows, on a GPU for rows that fit on the chip. tiles: kernels
// that work tile by tile.
enum class Way { chosen, dense, fused, tiles };

// Forces one way for all calls of this process, for tests; returns the name of the previous way.
std::string force_way(const std::string& name);
Way forced_way();

// The smallest number of rows of n numbers for which the forward pass is dense.
int64_t dense_rows(int64_t n, at::ScalarType dtype, c10::DeviceType device, bool keeps_graph);

// The smallest number of rows that are inverted with a cached matrix (kept.py), without gradients.
int64_t kept_rows(int64_t n, at::ScalarType dtype, c10::DeviceType device);

}  // namespace invcap
