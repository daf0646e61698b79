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
#include "simt/global.h"
#include "simt/records.h"

namespace simt {
namespace {

enum class State { ready, at_barrier, in_collective, exited };

struct Copy {
  size_t to;
  const std::byte* from;
  size_t bytes;
  bool valid;
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

// An access to shared memory as one number: the barriers passed before (the epoch) and the thread,
// counted from 1. Later accesses are larger; 0 is none.
using Touch = uint32_t;
constexpr Touch kThread = 0x7ff, kInFlight = 0x800, kEpoch = 0x1000;
constexpr Touch kMany = kThread;  // more than one thread

// The last write of two bytes of shared memory, and the last read.
constexpr size_t kCellBytes = 2;
struct Cell {
  Touch write = 0, read = 0;
};

struct Block {
  unsigned size = 0;
  Touch epoch = 0;  // kEpoch for each barrier passed
  unsigned waiting = 0, exited = 0;
  Site barrier;                       // where they wait
  bool votes = false, voted = false;  // at this barrier so far, at the last one
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  std::vector<std::byte> shared;
  std::vector<Cell> cells;
  std::string fault;
  const std::function<void()>* body = nullptr;
};
Block block;
std::vector<std::unique_ptr<Fiber>> fibers;

unsigned current() { return position.thread.x; }
Thread& self() { return block.threads[current()]; }
Warp& own_warp() { return block.warps[current() / kWarp]; }
Touch touch_now() { return block.epoch | (current() + 1); }

bool same(Site a, Site b) {
  return a.line() == b.line() &&
         (a.file_name() == b.file_name() || std::strcmp(a.file_name(), b.file_name()) == 0);
}

std::string at(Site site) {
  const std::string file = site.file_name();
  return file.substr(file.rfind('/') + 1) + ":" + std::to_string(site.line());
}

// "tile.cuh:12: race ... (block 3, thread 17)"
std::string describe(const std::string& what, Site site) {
  return at(site) + ": " + what + " (block " + std::to_string(position.block.x) + "," +
         std::to_string(position.block.y) + ", thread " + std::to_string(current()) + ")";
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

bool in_this_epoch(Touch touch) { return touch >= block.epoch && touch; }
bool by_another(Touch touch) { return (touch & kThread) != current() + 1; }

// The state of one cell after an access; throws a Fault if the access is not allowed.
Cell after_read(Cell cell, Site site) {
  if (cell.write & kInFlight) fail("read of the destination of a copy in flight", site);
  if (!cell.write) fail("read of shared memory that nobody wrote", site);
  if (in_this_epoch(cell.write) && by_another(cell.write)) {
    fail("race: read after another thread's write, no barrier between", site);
  }
  const bool shared = in_this_epoch(cell.read) && by_another(cell.read);
  return {cell.write, shared ? block.epoch | kMany : touch_now()};
}

Cell after_write(Cell cell, Site site) {
  if (cell.write & kInFlight) fail("write to the destination of a copy in flight", site);
  if (in_this_epoch(cell.write) && by_another(cell.write)) {
    fail("race: write after another thread's write, no barrier between", site);
  }
  if (in_this_epoch(cell.read) && by_another(cell.read)) {
    fail("race: write after another thread's read, no barrier between", site);
  }
  return {touch_now(), cell.read};
}

// Applies `after` to the cells of an access; only once if all are equal.
template <size_t kBytes, class After>
void touch(size_t begin, const char* access, Site site, const After& after) {
  if (begin + kBytes > block.shared.size()) {
    fail(std::string(access) + " out of the bounds of shared memory", site);
  }
  constexpr size_t kCount = kBytes / kCellBytes;
  std::array<Cell, kCount> cells;
  Cell* const place = &block.cells[begin / kCellBytes];
  std::memcpy(static_cast<void*>(&cells), place, sizeof(cells));
  Touch differences = 0;
  for (const Cell& cell : cells) {
    differences |= (cell.write ^ cells[0].write) | (cell.read ^ cells[0].read);
  }
  if (differences) {
    for (Cell& cell : cells) cell = after(cell);
  } else {
    cells.fill(after(cells[0]));
  }
  std::memcpy(static_cast<void*>(place), &cells, sizeof(cells));
}

// Runs the ready lanes of a warp until none is left; a random order may stop earlier. Returns
// whether anything ran.
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
      position.thread.x = lane;
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
    position.thread.x = static_cast<unsigned>(stuck - block.threads.begin());
    throw Fault(describe("collective that lanes of its mask never reach", stuck->site));
  }
}

void start_block(Dim index) {
  position.block = index;
  block.epoch = block.waiting = block.exited = 0;
  block.votes = false;
  block.fault.clear();
  block.threads.assign(block.size, {});
  block.warps.assign((block.size + kWarp - 1) / kWarp, {});
  std::fill(block.shared.begin(), block.shared.end(), std::byte{0xff});  // NaN in every format
  std::fill(block.cells.begin(), block.cells.end(), Cell{});
  for (unsigned i = 0; i < block.size; ++i) fibers[i]->start(&run_thread);
  if (records.active) records.start_block(index);
}

void check_limits(Dim grid, unsigned threads, size_t shared_bytes) {
  const auto check = [](const std::string& what, size_t value, size_t limit) {
    if (value > 0 && value <= limit) return;
    throw Fault("launch: " + std::to_string(value) + " " + what + ", the limit is " +
                std::to_string(limit));
  };
  check("threads a block", threads, 1024);
  check("blocks along x", grid.x, (1u << 31) - 1);
  check("blocks along y", grid.y, 65535);
  check("blocks along z", grid.z, 65535);
  if (shared_bytes > 0) check("bytes of shared memory", shared_bytes, settings.shared_limit);
}

}  // namespace

Position position;

void launch(Dim grid, unsigned threads, size_t shared_bytes, const std::function<void()>& thread) {
  check_limits(grid, threads, shared_bytes);
  while (fibers.size() < threads) fibers.push_back(std::make_unique<Fiber>());
  position.grid = grid;
  block.size = threads;
  block.body = &thread;
  block.shared.resize(shared_bytes);
  block.cells.resize((shared_bytes + kCellBytes - 1) / kCellBytes);
  std::mt19937_64 random(settings.seed);
  std::vector<unsigned> order(static_cast<size_t>(grid.x) * grid.y * grid.z);
  std::iota(order.begin(), order.end(), 0u);
  if (settings.order == Order::descending) std::reverse(order.begin(), order.end());
  if (settings.order == Order::random) std::shuffle(order.begin(), order.end(), random);
  if (records.active) records.start_launch();
  GlobalWrites global;
  for (const unsigned i : order) {
    start_block({i % grid.x, i / grid.x % grid.y, i / grid.x / grid.y});
    run_block(random);
    if (!global.take_block()) {
      throw Fault("race: block " + std::to_string(i) + " of " + std::to_string(order.size()) +
                  " changes global memory that another block of its launch changed");
    }
  }
  global.give_back();
}

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
    if (records.active) ++records.blocks.back().barriers;
    if ((block.epoch += kEpoch) == 0) fail("more barriers than the harness can count", site);
    for (Thread& thread : block.threads) thread.state = State::ready;
    Fiber::suspend();
  } else {
    wait(State::at_barrier, site);
  }
  return block.voted;
}

bool join(unsigned mask, void* lane, Site site) {
  Warp& warp = own_warp();
  const unsigned bit = 1u << current() % kWarp;
  if (!(mask & bit)) fail("collective whose mask leaves out its caller", site);
  if (warp.arrived && (warp.mask != mask || !same(warp.site, site))) {
    fail("collective, but other lanes wait with another mask or at " + at(warp.site), site);
  }
  warp.mask = mask;
  warp.site = site;
  warp.lanes[current() % kWarp] = lane;
  warp.arrived |= bit;
  return warp.arrived == mask;
}

const std::array<void*, kWarp>& joined() { return own_warp().lanes; }

void finish() {
  const unsigned first = current() / kWarp * kWarp;
  for (unsigned mask = own_warp().mask; mask; mask &= mask - 1) {
    block.threads[first + std::countr_zero(mask)].state = State::ready;
  }
  own_warp() = {};
  Fiber::suspend();
}

void wait_for_warp() { wait(State::in_collective, own_warp().site); }

template <size_t kBytes>
std::byte* shared_read(size_t begin, Site site) {
  touch<kBytes>(begin, "read", site, [site](Cell cell) { return after_read(cell, site); });
  return block.shared.data() + begin;
}

template <size_t kBytes>
std::byte* shared_write(size_t begin, Site site) {
  touch<kBytes>(begin, "write", site, [site](Cell cell) { return after_write(cell, site); });
  if (records.active) records.write(current(), site, begin, kBytes);
  return block.shared.data() + begin;
}

template std::byte* shared_read<2>(size_t, Site);
template std::byte* shared_read<4>(size_t, Site);
template std::byte* shared_read<8>(size_t, Site);
template std::byte* shared_read<16>(size_t, Site);
template std::byte* shared_write<2>(size_t, Site);
template std::byte* shared_write<4>(size_t, Site);
template std::byte* shared_write<8>(size_t, Site);
template std::byte* shared_write<16>(size_t, Site);

template <size_t kBytes>
void copy_async(size_t to, const void* from, bool valid, Site site) {
  if (to % kBytes || (valid && reinterpret_cast<uintptr_t>(from) % kBytes)) {
    fail("asynchronous copy that is not aligned", site);
  }
  touch<kBytes>(to, "write", site, [site](Cell cell) {
    cell = after_write(cell, site);
    return Cell{cell.write | kInFlight, cell.read};
  });
  if (records.active && valid) records.fetch(from, kBytes);
  self().copies.push_back(
      {to, static_cast<const std::byte*>(from), kBytes, valid, self().group, site});
}

template void copy_async<4>(size_t, const void*, bool, Site);
template void copy_async<8>(size_t, const void*, bool, Site);
template void copy_async<16>(size_t, const void*, bool, Site);

void commit_copies() { ++self().group; }

void wait_for_copies(int groups_in_flight, Site site) {
  if (is_ignored(site)) return;
  auto& copies = self().copies;
  std::erase_if(copies, [&](const Copy& copy) {
    if (copy.group >= self().group - groups_in_flight) return false;
    std::memset(block.shared.data() + copy.to, 0, copy.bytes);
    if (copy.valid) std::memcpy(block.shared.data() + copy.to, copy.from, copy.bytes);
    Cell* cell = &block.cells[copy.to / kCellBytes];
    for (size_t i = 0; i < copy.bytes; i += kCellBytes, ++cell) {
      cell->write = touch_now();
    }
    return true;
  });
}

}  // namespace simt
