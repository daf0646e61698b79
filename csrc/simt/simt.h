// Runs CUDA kernels on a CPU, with a scheduler that may choose unfavourable orders. For tests only.
//
// Blocks run one after another. Every thread of a block is a fiber that runs until it reaches a
// barrier or a warp collective, so the result of a correct kernel does not depend on `Order`.
// Undefined behaviour in the CUDA programming model ends the launch with a Fault, which names the
// error, the thread and the line:
//   - threads waiting at different barriers, or at one that an exited thread never reaches;
//   - a warp collective whose mask differs between lanes, excludes its caller or is never complete;
//   - shared memory (shared.h): out of bounds, read before it is written, or accessed by two
//     threads, one of them writing, without a barrier between them;
//   - an asynchronous copy whose destination is accessed, or whose thread exits, before its wait;
//   - tracked global memory (global.h) that two blocks of one launch change;
//   - a launch with too many threads, too many blocks or too much shared memory.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <source_location>
#include <stdexcept>
#include <string>

namespace simt {

enum class Order { ascending, descending, random, warp_ahead };

struct Settings {
  Order order = Order::ascending;
  uint64_t seed = 0;
  size_t shared_limit = 227 << 10;  // bytes per block
  int processors = 132;
  // The barrier, or wait for copies, in this line does nothing.
  std::string ignored_file = {};
  unsigned ignored_line = 0;
};
inline Settings settings;

struct Fault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Dim {
  unsigned x = 1, y = 1, z = 1;
};

using Site = std::source_location;
constexpr int kWarp = 32;

// Runs `thread` as every thread of every block; throws Fault. Threads are one-dimensional.
void launch(Dim grid, unsigned threads, size_t shared_bytes, const std::function<void()>& thread);

// ---- Functions for a running thread.

struct Position {
  Dim thread{0, 0, 0}, block{0, 0, 0}, grid;
};
extern Position position;
inline Dim thread_index() { return position.thread; }
inline Dim block_index() { return position.block; }
inline Dim grid_size() { return position.grid; }
[[noreturn]] void fail(const std::string& what, Site site);
// A barrier; returns whether any thread passed `vote`.
bool barrier(Site site, bool vote = false);

// Joins the collective of this warp; returns true in the lane that completes it.
bool join(unsigned mask, void* lane, Site site);
// The operands of the lanes that have joined, by lane.
const std::array<void*, kWarp>& joined();
// Releases the lanes of a complete collective, or waits for the release.
void finish();
void wait_for_warp();

// A collective: `combine(lanes)` runs once, in the last lane to arrive, on the operands of all.
template <class Lane, class Combine>
void collective(unsigned mask, Lane& lane, const Combine& combine, Site site) {
  if (join(mask, &lane, site)) {
    std::array<Lane*, kWarp> lanes;
    for (int i = 0; i < kWarp; ++i) lanes[i] = static_cast<Lane*>(joined()[i]);
    combine(lanes);
    finish();
  } else {
    wait_for_warp();
  }
}

// ---- Shared memory, in bytes from its start. Every access, of 2, 4, 8 or 16 bytes, is checked.

template <size_t kBytes>
std::byte* shared_read(size_t begin, Site site);
template <size_t kBytes>
std::byte* shared_write(size_t begin, Site site);

// Copies 4, 8 or 16 bytes, zeros if not `valid`, to shared memory, at the wait and no earlier.
template <size_t kBytes>
void copy_async(size_t to, const void* from, bool valid, Site site);
void commit_copies();
void wait_for_copies(int groups_in_flight, Site site);

}  // namespace simt
