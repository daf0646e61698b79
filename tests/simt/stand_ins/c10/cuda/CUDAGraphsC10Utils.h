// In place of torch's, for tensors on a CPU: a graph is captured when a test says so.
#pragma once

namespace c10::cuda {
enum class CaptureStatus { None, Active };
inline CaptureStatus capture_status = CaptureStatus::None;
inline CaptureStatus currentStreamCaptureStatusMayInitCtx() { return capture_status; }
}  // namespace c10::cuda
