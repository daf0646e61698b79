#include "simt/simt.h"

extern "C" void configure(int order, uint64_t seed, size_t shared_limit, int processors,
                          const char* ignored_file, unsigned ignored_line) {
  simt::settings = {
      static_cast<simt::Order>(order), seed, shared_limit, processors, ignored_file, ignored_line};
}
