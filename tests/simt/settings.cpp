#include <cstring>

#include "simt/global.h"
#include "simt/records.h"

extern "C" void configure(int order, uint64_t seed, size_t shared_limit, int processors,
                          const char* ignored_file, unsigned ignored_line) {
  simt::settings = {
      static_cast<simt::Order>(order), seed, shared_limit, processors, ignored_file, ignored_line};
}

extern "C" void track(std::byte* const* begins, const size_t* bytes, size_t count) {
  simt::tracked.clear();
  for (size_t i = 0; i < count; ++i) simt::tracked.push_back({begins[i], bytes[i]});
}

extern "C" void start_records(size_t cache_bytes) { simt::records.start(cache_bytes); }
extern "C" size_t stop_records() {
  simt::records.active = false;
  return simt::records.blocks.size();
}
extern "C" void read_records(simt::BlockRecord* to) {
  std::memcpy(to, simt::records.blocks.data(),
              simt::records.blocks.size() * sizeof(simt::BlockRecord));
}
extern "C" int conflicts(const char* file, unsigned line) {
  return simt::records.conflicts(file, line);
}
