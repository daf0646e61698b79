// Memory aligned to cache lines: rounding in a library's products may depend on the alignment of
// the operands, and the same batch should always give the same bits.
#pragma once

#include <cstddef>
#include <new>
#include <vector>

namespace invcap::cpu {

constexpr std::align_val_t kCacheLine{64};

template <class T>
struct OnCacheLines {
  using value_type = T;
  T* allocate(size_t count) {
    return static_cast<T*>(::operator new(count * sizeof(T), kCacheLine));
  }
  void deallocate(T* memory, size_t) { ::operator delete(memory, kCacheLine); }
  bool operator==(const OnCacheLines&) const { return true; }
};

template <class T>
using Memory = std::vector<T, OnCacheLines<T>>;

}  // namespace invcap::cpu
