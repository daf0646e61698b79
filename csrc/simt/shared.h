// Shared<T>: a pointer into shared memory that checks every access. On a GPU it is a plain T*.
#pragma once

#include <cstddef>
#include <cstring>

#include "simt/simt.h"

namespace simt {

template <class T>
class Reference;

// An index that knows where it was written, since operator[] takes no defaulted argument.
struct Index {
  template <class Integer>
  Index(Integer value, Site site = Site::current()) : value(value), site(site) {}
  ptrdiff_t value;
  Site site;
};

template <class T>
class Shared {
 public:
  // The array at [begin, end), in bytes of the block's shared memory.
  Shared(size_t begin, size_t end) : begin_(begin), end_(end), at_(begin) {}

  Shared operator+(ptrdiff_t count) const {
    Shared moved = *this;
    moved.at_ += count * sizeof(T);
    return moved;
  }
  Reference<T> operator[](Index index) const { return {*this + index.value, index.site}; }

  // Accesses of one T or, as a GPU does in one instruction, of a vector of them.
  template <class Value>
  Value read(Site site) const {
    Value value;
    std::memcpy(static_cast<void*>(&value),
                shared_read<sizeof(Value)>(checked(sizeof(Value), site), site), sizeof(Value));
    return value;
  }
  template <class Value>
  void write(const Value& value, Site site) const {
    std::memcpy(shared_write<sizeof(Value)>(checked(sizeof(Value), site), site),
                static_cast<const void*>(&value), sizeof(Value));
  }

  // The offset of an access of `bytes`, within the array and aligned as the hardware asks.
  size_t checked(size_t bytes, Site site) const {
    if (at_ < begin_ || at_ + bytes > end_) fail("access out of the bounds of its array", site);
    if (at_ % bytes) fail("access that is not aligned", site);
    return at_;
  }

 private:
  size_t begin_, end_, at_;
};

template <class T>
class Reference {
 public:
  Reference(Shared<T> pointer, Site site) : pointer_(pointer), site_(site) {}
  operator T() const { return pointer_.template read<T>(site_); }
  void operator=(const T& value) const { pointer_.write(value, site_); }
  void operator=(const Reference& other) const { pointer_.write(static_cast<T>(other), site_); }

 private:
  Shared<T> pointer_;
  Site site_;
};

}  // namespace simt
