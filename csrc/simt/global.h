// Checks global memory for races between the blocks of a launch. On a GPU they run concurrently, so
// each block here sees tracked memory as it was before the launch, and no two may change one byte.
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
  // Hides a block's changes from the next. Returns false if another block changed the same bytes.
  bool take_block();
  // Applies the changes of all blocks.
  void give_back() const;

 private:
  std::vector<std::vector<std::byte>> before_, after_;
};

}  // namespace simt
