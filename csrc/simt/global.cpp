#include "simt/global.h"

#include <algorithm>
#include <cstring>

namespace simt {

GlobalWrites::GlobalWrites() {
  for (const Region& region : tracked) {
    before_.emplace_back(region.begin, region.begin + region.bytes);
  }
  after_ = before_;
}

bool GlobalWrites::take_block() {
  constexpr size_t kPart = 1024;
  bool alone = true;
  for (size_t i = 0; i < tracked.size(); ++i) {
    std::byte *now = tracked[i].begin, *before = before_[i].data(), *after = after_[i].data();
    for (size_t first = 0; first < tracked[i].bytes; first += kPart) {
      const size_t bytes = std::min(kPart, tracked[i].bytes - first);
      if (std::memcmp(now + first, before + first, bytes) == 0) continue;
      for (size_t byte = first; byte < first + bytes; ++byte) {
        if (now[byte] == before[byte]) continue;
        alone = alone && after[byte] == before[byte];
        after[byte] = now[byte];
      }
      std::memcpy(now + first, before + first, bytes);
    }
  }
  return alone;
}

void GlobalWrites::give_back() const {
  for (size_t i = 0; i < tracked.size(); ++i) {
    std::memcpy(tracked[i].begin, after_[i].data(), tracked[i].bytes);
  }
}

}  // namespace simt
