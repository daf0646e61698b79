#include "simt/simt.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <string_view>
#include <utility>
#include <vector>

#include "simt/fiber.h"

namespace simt {
namespace {

enum class State { ready, at_barrier, in_collective, exited };

struct Copy {
  size_t to;
  const std::byte* from;
  size_t bytes, valid;
  int group;
  Site site;
};

struct Thread {
  State state = State::ready;
  Site site;
  std::vector<Copy> copies;
  int group = 0;  // of the copies issued next
};

struct Warp {
  unsigned mask = 0, arrived = 0;
  Site site;
  std::array<void*, kWarp> lanes{};
};

// Who touched two bytes of shared memory since which barrier. Threads count from 1; 0 is nobody.
constexpr size_t kCellBytes = 2;
constexpr uint16_t kMany = 0xffff;
struct Cell {
  uint32_t written = 0, read = 0;  // the epochs
  uint16_t writer = 0, reader = 0;
  bool in_flight = false;
};

struct Block {
  Dim index, grid;
  unsigned size = 0;
  uint32_t epoch = 0;  // barriers passed
  unsigned waiting = 0, exited = 0;
  Site barrier;                       // where they wait
  bool votes = false, voted = false;  // at this barrier so far, at the last one
  unsigned current = 0;
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  std::vector<std::byte> shared;
  std::vector<Cell> cells;
  std::string fault;
  const std::function<void()>* body = nullptr;
};
Block block;
std::vector<std::unique_ptr<Fiber>> fibers;

Thread& self() { return block.threads[block.current]; }
Warp& own_warp() { return block.warps[block.current / kWarp]; }

bool same(Site a, Site b) {
  return a.line() == b.line() && std::strcmp(a.file_name(), b.file_name()) == 0;
}

std::string at(Site site) {
  const std::string file = site.file_name();
  return file.substr(file.rfind('/') + 1) + ":" + std::to_string(site.line());
}

// "tile.cuh:12: race ... (block 3, thread 17)"
std::string describe(const std::string& what, Site site) {
  return at(site) + ": " + what + " (block " + std::to_string(block.index.x) + "," +
         std::to_string(block.index.y) + ", thread " + std::to_string(block.current) + ")";
}

bool is_ignored(Site site) {
  return site.line() == settings.ignored_line &&
         std::string_view(site.file_name()).ends_with("/" + settings.ignored_file);
}

void wait(State state, Site site) {
  self().state = state;
  self().site = site;
  Fiber::suspend();
}

void run_thread() {
  (*block.body)();
  if (!self().copies.empty()) {
    fail("exited with an asynchronous copy in flight", self().copies.front().site);
  }
  self().state = State::exited;
  ++block.exited;
  if (block.waiting > 0) fail("barrier that one thread exits without", block.barrier);
}

// The cells of an access, inside of the block's shared memory.
Cell* cells(size_t begin, size_t bytes, const char* access, Site site) {
  if (begin + bytes > block.shared.size()) {
    fail(std::string(access) + " out of the bounds of shared memory", site);
  }
  return &block.cells[begin / kCellBytes];
}

void mark_written(size_t begin, size_t bytes, bool in_flight, Site site) {
  const auto me = static_cast<uint16_t>(block.current + 1);
  Cell* cell = cells(begin, bytes, "write", site);
  for (size_t i = 0; i < bytes; i += kCellBytes, ++cell) {
    if (cell->in_flight) fail("write to the destination of a copy in flight", site);
    if (cell->writer && cell->writer != me && cell->written == block.epoch) {
      fail("race: write after another thread's write, no barrier between", site);
    }
    if (cell->reader && cell->reader != me && cell->read == block.epoch) {
      fail("race: write after another thread's read, no barrier between", site);
    }
    cell->writer = me;
    cell->written = block.epoch;
    cell->in_flight = in_flight;
  }
}

// Runs the ready lanes of a warp again and again until none is left; a random order may leave
// early. Returns whether anything ran.
bool run_warp(unsigned warp, std::mt19937_64& random) {
  const unsigned first = warp * kWarp;
  std::vector<unsigned> lanes(std::min<unsigned>(kWarp, block.size - first));
  std::iota(lanes.begin(), lanes.end(), first);
  if (settings.order == Order::descending) std::reverse(lanes.begin(), lanes.end());
  bool progress = false;
  for (bool again = true; again;) {
    again = false;
    if (settings.order == Order::random) std::shuffle(lanes.begin(), lanes.end(), random);
    for (const unsigned lane : lanes) {
      if (block.threads[lane].state != State::ready) continue;
      block.current = lane;
      fibers[lane]->resume();
      if (!block.fault.empty()) throw Fault(block.fault);
      again = progress = true;
    }
    if (settings.order == Order::random && random() % 4 == 0) break;
  }
  return progress;
}

void run_block(std::mt19937_64& random) {
  std::vector<unsigned> warps(block.warps.size());
  std::iota(warps.begin(), warps.end(), 0u);
  if (settings.order == Order::descending) std::reverse(warps.begin(), warps.end());
  const unsigned favourite = settings.seed % warps.size();
  while (block.exited < block.size) {
    if (settings.order == Order::random) std::shuffle(warps.begin(), warps.end(), random);
    bool progress = false;
    for (const unsigned warp : warps) {
      if (settings.order == Order::warp_ahead) progress |= run_warp(favourite, random);
      progress |= run_warp(warp, random);
    }
    if (progress) continue;
    const auto stuck =
        std::find_if(block.threads.begin(), block.threads.end(),
                     [](const Thread& t) { return t.state == State::in_collective; });
    block.current = static_cast<unsigned>(stuck - block.threads.begin());
    throw Fault(describe("collective that lanes of its mask never reach", stuck->site));
  }
}

void start_block(Dim index) {
  block.index = index;
  block.epoch = block.waiting = block.exited = 0;
  block.votes = false;
  block.fault.clear();
  block.threads.assign(block.size, {});
  block.warps.assign((block.size + kWarp - 1) / kWarp, {});
  std::fill(block.shared.begin(), block.shared.end(), std::byte{0xff});  // NaN in every format
  std::fill(block.cells.begin(), block.cells.end(), Cell{});
  for (unsigned i = 0; i < block.size; ++i) fibers[i]->start(&run_thread);
}

}  // namespace

void launch(Dim grid, unsigned threads, size_t shared_bytes, const std::function<void()>& thread) {
  if (shared_bytes > settings.shared_limit) {
    throw Fault("launch: " + std::to_string(shared_bytes) +
                " bytes of shared memory, the limit is " + std::to_string(settings.shared_limit));
  }
  while (fibers.size() < threads) fibers.push_back(std::make_unique<Fiber>());
  block.grid = grid;
  block.size = threads;
  block.body = &thread;
  block.shared.resize(shared_bytes);
  block.cells.resize((shared_bytes + kCellBytes - 1) / kCellBytes);
  std::mt19937_64 random(settings.seed);
  std::vector<unsigned> order(grid.x * grid.y * grid.z);
  std::iota(order.begin(), order.end(), 0u);
  if (settings.order == Order::descending) std::reverse(order.begin(), order.end());
  if (settings.order == Order::random) std::shuffle(order.begin(), order.end(), random);
  for (const unsigned i : order) {
    start_block({i % grid.x, i / grid.x % grid.y, i / grid.x / grid.y});
    run_block(random);
  }
}

Dim thread_index() { return {block.current, 0, 0}; }
Dim block_index() { return block.index; }
Dim grid_size() { return block.grid; }

void fail(const std::string& what, Site site) {
  block.fault = describe(what, site);
  Fiber::suspend(/*for_good=*/true);
  __builtin_unreachable();
}

bool barrier(Site site, bool vote) {
  if (is_ignored(site)) return vote;
  if (block.exited > 0) fail("barrier that one thread exited without", site);
  if (block.waiting > 0 && !same(block.barrier, site)) {
    fail("barrier, but others wait at " + at(block.barrier), site);
  }
  block.barrier = site;
  block.votes |= vote;
  if (++block.waiting == block.size) {
    block.waiting = 0;
    block.voted = std::exchange(block.votes, false);
    ++block.epoch;
    for (Thread& thread : block.threads) thread.state = State::ready;
    Fiber::suspend();
  } else {
    wait(State::at_barrier, site);
  }
  return block.voted;
}

bool join(unsigned mask, void* lane, Site site) {
  Warp& warp = own_warp();
  const unsigned bit = 1u << block.current % kWarp;
  if (!(mask & bit)) fail("collective whose mask leaves out its caller", site);
  if (warp.arrived && (warp.mask != mask || !same(warp.site, site))) {
    fail("collective, but other lanes wait with another mask or at " + at(warp.site), site);
  }
  warp.mask = mask;
  warp.site = site;
  warp.lanes[block.current % kWarp] = lane;
  warp.arrived |= bit;
  return warp.arrived == mask;
}

const std::array<void*, kWarp>& joined() { return own_warp().lanes; }

void finish() {
  const unsigned first = block.current / kWarp * kWarp;
  for (unsigned mask = own_warp().mask; mask; mask &= mask - 1) {
    block.threads[first + std::countr_zero(mask)].state = State::ready;
  }
  own_warp() = {};
  Fiber::suspend();
}

void wait_for_warp() { wait(State::in_collective, own_warp().site); }

std::byte* shared_read(size_t begin, size_t bytes, Site site) {
  const auto me = static_cast<uint16_t>(block.current + 1);
  Cell* cell = cells(begin, bytes, "read", site);
  for (size_t i = 0; i < bytes; i += kCellBytes, ++cell) {
    if (cell->in_flight) fail("read of the destination of a copy in flight", site);
    if (!cell->writer) fail("read of shared memory that nobody wrote", site);
    if (cell->writer != me && cell->written == block.epoch) {
      fail("race: read after another thread's write, no barrier between", site);
    }
    const bool first = !cell->reader || cell->read != block.epoch;
    cell->reader = first || cell->reader == me ? me : kMany;
    cell->read = block.epoch;
  }
  return block.shared.data() + begin;
}

std::byte* shared_write(size_t begin, size_t bytes, Site site) {
  mark_written(begin, bytes, /*in_flight=*/false, site);
  return block.shared.data() + begin;
}

void copy_async(size_t to, const void* from, size_t bytes, size_t valid, Site site) {
  if (to % bytes || (valid && reinterpret_cast<uintptr_t>(from) % bytes)) {
    fail("asynchronous copy that is not aligned", site);
  }
  mark_written(to, bytes, /*in_flight=*/true, site);
  self().copies.push_back(
      {to, static_cast<const std::byte*>(from), bytes, valid, self().group, site});
}

void commit_copies() { ++self().group; }

void wait_for_copies(int groups_in_flight, Site site) {
  if (is_ignored(site)) return;
  auto& copies = self().copies;
  std::erase_if(copies, [&](const Copy& copy) {
    if (copy.group >= self().group - groups_in_flight) return false;
    std::memset(block.shared.data() + copy.to, 0, copy.bytes);
    if (copy.valid) std::memcpy(block.shared.data() + copy.to, copy.from, copy.valid);
    Cell* cell = &block.cells[copy.to / kCellBytes];
    for (size_t i = 0; i < copy.bytes; i += kCellBytes, ++cell) {
      cell->in_flight = false;
      cell->written = block.epoch;
    }
    return true;
  });
}

}  // namespace simt
