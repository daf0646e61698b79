// Tiles: transposes rows of a batch to columns, and back.
#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "cpu/memory.h"
#include "cpu/product.h"
#include "cpu/triangular.h"

namespace invcap::cpu {

// `size` rows of a batch from `begin` on, as columns; `width` includes padding.
struct Tile {
  int64_t begin, size, width;
};

// Calls work(tile, columns) for all rows on all threads, with memory for the tile's columns, (n,
// width). All tiles have one width, a multiple of 8; their number is a multiple of that of threads,
// and rows are distributed evenly.
template <class T, class Work>
void for_tiles(int64_t rows, int64_t n, const Work& work) {
  const int64_t threads = at::get_num_threads();
  const int64_t least = (rows + kMostColumns - 1) / kMostColumns;
  const int64_t even = std::max<int64_t>(1, (least + threads - 1) / threads) * threads;
  const int64_t width = std::max<int64_t>(8, (rows + 8 * even - 1) / (8 * even) * 8);
  at::parallel_for(0, (rows + width - 1) / width, 1, [&](int64_t first, int64_t last) {
    thread_local Memory<T> memory;
    if (memory.size() < static_cast<size_t>(n * width)) memory.resize(n * width);
    for (int64_t index = first; index < last; ++index) {
      const int64_t begin = index * width;
      work(Tile{begin, std::min(width, rows - begin), width}, View<T>{memory.data(), width});
    }
  });
}

// out[j, i] = from[i, j] for 4 x 4 numbers
template <class T>
void transpose_four(View<const T> from, View<T> out) {
  typedef T Four __attribute__((vector_size(4 * sizeof(T))));
  Four a, b, c, d;
  std::memcpy(&a, from.row(0), sizeof(Four));
  std::memcpy(&b, from.row(1), sizeof(Four));
  std::memcpy(&c, from.row(2), sizeof(Four));
  std::memcpy(&d, from.row(3), sizeof(Four));
  const Four ab01 = __builtin_shufflevector(a, b, 0, 4, 1, 5);
  const Four ab23 = __builtin_shufflevector(a, b, 2, 6, 3, 7);
  const Four cd01 = __builtin_shufflevector(c, d, 0, 4, 1, 5);
  const Four cd23 = __builtin_shufflevector(c, d, 2, 6, 3, 7);
  a = __builtin_shufflevector(ab01, cd01, 0, 1, 4, 5);
  b = __builtin_shufflevector(ab01, cd01, 2, 3, 6, 7);
  c = __builtin_shufflevector(ab23, cd23, 0, 1, 4, 5);
  d = __builtin_shufflevector(ab23, cd23, 2, 3, 6, 7);
  std::memcpy(out.row(0), &a, sizeof(Four));
  std::memcpy(out.row(1), &b, sizeof(Four));
  std::memcpy(out.row(2), &c, sizeof(Four));
  std::memcpy(out.row(3), &d, sizeof(Four));
}

// out[j, i] = from[i, j] for i < rows, j < columns. Fastest if out's rows are an odd number of
// cache lines apart, so that they do not map to the same set of a cache.
template <class T>
void transpose(int64_t rows, int64_t columns, View<const T> from, View<T> out) {
  constexpr int64_t kSpan = 64;  // rows of out at a time: their pages fit in the TLB
  for (int64_t span = 0; span < columns; span += kSpan) {
    const int64_t end = std::min(span + kSpan, columns);
    for (int64_t i = 0; i < rows; i += 8) {
      for (int64_t j = span; j < end; j += 4) {
        if (i + 8 <= rows && j + 4 <= end) {
          transpose_four<T>(from.at(i, j), out.at(j, i));
          transpose_four<T>(from.at(i + 4, j), out.at(j, i + 4));
          continue;
        }
        for (int64_t column = j; column < std::min(j + 4, end); ++column) {
          for (int64_t row = i; row < std::min(i + 8, rows); ++row) {
            out.row(column)[row] = from.row(row)[column];
          }
        }
      }
    }
  }
}

// Reads the rows of a tile as columns, (n, width), padded with zeros.
template <class T>
void load(const Tile& tile, int64_t n, View<const T> from, View<T> out) {
  transpose<T>(tile.size, n, from.at(tile.begin), out);
  for (int64_t j = 0; j < n && tile.size < tile.width; ++j) {
    std::fill(out.row(j) + tile.size, out.row(j) + tile.width, T(0));
  }
}

// Writes the columns of a tile as rows.
template <class T>
void store(const Tile& tile, int64_t n, View<const T> from, View<T> out) {
  transpose<T>(n, tile.size, from, out.at(tile.begin));
}

// tile[j, column] = map(tile[j, column], by[j]).
template <class T, class Map>
void change(int64_t n, int64_t width, View<T> tile, const T* by, const Map& map) {
  for (int64_t j = 0; j < n; ++j) {
    T* row = tile.row(j);
    const T value = by[j];
    for (int64_t k = 0; k < width; ++k) row[k] = map(row[k], value);
  }
}

}  // namespace invcap::cpu
