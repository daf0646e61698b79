// Records the memory accesses of launches, for tests of how work and traffic are distributed. A
// test starts it and reads it; it records while `active`.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <set>
#include <string_view>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "simt/simt.h"

namespace simt {

struct BlockRecord {
  int64_t launch, x, y, z;
  int64_t barriers;
  int64_t fetched;  // bytes of asynchronous copies that the cache did not hold
};

// A simulated L2 cache. Blocks run one after another, so it holds data of the blocks before.
class Records {
 public:
  bool active = false;
  std::vector<BlockRecord> blocks;

  // Clears everything; the cache then holds this many bytes.
  void start(size_t cache_bytes);
  void start_launch() { ++launches_; }
  void start_block(Dim index);
  void fetch(const void* from, size_t bytes);
  // One thread's write of bytes to shared memory at `begin`. The writes of a warp's lanes at one
  // site are one instruction, the first of all lanes, then the second of all, and so on.
  void write(unsigned thread, Site site, size_t begin, size_t bytes);
  // The most words of one bank that one instruction at a line of `file` writes.
  int conflicts(std::string_view file, unsigned line) const;

 private:
  static constexpr size_t kLine = 128, kBanks = 32;
  using Place = std::tuple<std::string_view, unsigned, unsigned>;     // file, line, column
  using Instruction = std::tuple<Place, size_t, unsigned, unsigned>;  // block, quarter, occurrence
  int64_t launches_ = 0;
  size_t cache_lines_ = 0;
  std::list<uintptr_t> recent_;  // lines, last used first
  std::unordered_map<uintptr_t, std::list<uintptr_t>::iterator> cached_;
  std::map<std::pair<Place, unsigned>, unsigned> occurrences_;
  std::map<Instruction, std::set<size_t>> words_;
};
inline Records records;

}  // namespace simt
