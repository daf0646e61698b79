#include "simt/records.h"

#include <algorithm>
#include <array>

namespace simt {

void Records::start(size_t cache_bytes) {
  *this = {};
  active = true;
  cache_lines_ = cache_bytes / kLine;
}

void Records::start_block(Dim index) {
  occurrences_.clear();
  blocks.push_back({launches_, index.x, index.y, index.z, 0, 0});
}

void Records::fetch(const void* from, size_t bytes) {
  const uintptr_t line = reinterpret_cast<uintptr_t>(from) / kLine;
  if (const auto found = cached_.find(line); found != cached_.end()) {
    recent_.splice(recent_.begin(), recent_, found->second);
    return;
  }
  blocks.back().fetched += std::max(bytes, kLine);
  recent_.push_front(line);
  cached_[line] = recent_.begin();
  if (recent_.size() > cache_lines_) {
    cached_.erase(recent_.back());
    recent_.pop_back();
  }
}

void Records::write(unsigned thread, Site site, size_t begin, size_t bytes) {
  const std::string_view path = site.file_name();
  const Place place{path.substr(path.rfind('/') + 1), site.line(), site.column()};
  // A warp's access is split into parts of at most 128 bytes.
  const auto part = thread / static_cast<unsigned>(std::min<size_t>(kWarp, kLine / bytes));
  auto& words = words_[{place, blocks.size(), part, occurrences_[{place, thread}]++}];
  for (size_t byte = begin; byte < begin + bytes; byte += 4) words.insert(byte / 4);
}

int Records::conflicts(std::string_view file, unsigned line) const {
  int most = 0;
  for (const auto& [instruction, words] : words_) {
    const auto& [found_file, found_line, column] = std::get<Place>(instruction);
    if (found_file != file || found_line != line) continue;
    std::array<int, kBanks> banks{};
    for (const size_t word : words) most = std::max(most, ++banks[word % kBanks]);
  }
  return most;
}

}  // namespace simt
