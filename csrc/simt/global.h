// Global memory between the blocks of a launch. On a GPU they run side by side, so each block here
// finds tracked memory as the launch found it, and no byte may be changed by two of them.
#pragma once

#include <cstddef>
#include <vector>

namespace simt {

struct Region {
  std::byte* begin;
  size_t bytes;
};
inline std::vector<Region> tracked;

// Lives as long as a launch.
class GlobalWrites {
 public:
  GlobalWrites();
  // Takes a block's changes away from the next. Returns false where another block made them, too.
  bool take_block();
  // All blocks' changes together.
  void give_back() const;

 private:
  std::vector<std::vector<std::byte>> before_, after_;
};

}  // namespace simt
