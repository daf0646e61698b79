// Rows of a batch as the columns of a tile, and back.
#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "cpu/product.h"
#include "cpu/triangular.h"

namespace invcap::cpu {

// `size` rows of a batch, from `begin` on, as columns; `width` with the padding.
struct Tile {
  int64_t begin, size, width;
};

// Calls work(tile, a, b) for all rows on all threads, with room for two tiles, (n, width). Tiles
// have one width, a multiple of 8, and as many as there are threads, or a multiple of that, are
// filled evenly.
template <class T, class Work>
void for_tiles(int64_t rows, int64_t n, const Work& work) {
  const int64_t threads = at::get_num_threads();
  const int64_t least = (rows + kMostColumns - 1) / kMostColumns;
  const int64_t even = std::max<int64_t>(1, (least + threads - 1) / threads) * threads;
  const int64_t width = std::max<int64_t>(8, (rows + 8 * even - 1) / (8 * even) * 8);
  at::parallel_for(0, (rows + width - 1) / width, 1, [&](int64_t first, int64_t last) {
    thread_local std::vector<T> memory;
    if (memory.size() < static_cast<size_t>(2 * n * width)) memory.resize(2 * n * width);
    const View<T> a{memory.data(), width}, b{memory.data() + n * width, width};
    for (int64_t index = first; index < last; ++index) {
      const int64_t begin = index * width;
      work(Tile{begin, std::min(width, rows - begin), width}, a, b);
    }
  });
}

// out[j, i] = map(from[i, j], i, j) for i < rows, j < columns, by blocks that fit into the nearest
// cache.
template <class T, class Map>
void transpose(int64_t rows, int64_t columns, View<const T> from, View<T> out, const Map& map) {
  constexpr int64_t kSide = 8;
  const auto block = [&](int64_t i0, int64_t j0, int64_t height, int64_t width) {
    const T* __restrict source = from.row(i0) + j0;
    T* __restrict target = out.row(j0) + i0;
    for (int64_t j = 0; j < width; ++j) {
      for (int64_t i = 0; i < height; ++i) {
        target[j * out.stride + i] = map(source[i * from.stride + j], i0 + i, j0 + j);
      }
    }
  };
  for (int64_t i = 0; i < rows; i += kSide) {
    for (int64_t j = 0; j < columns; j += kSide) {
      if (i + kSide <= rows && j + kSide <= columns) {
        block(i, j, kSide, kSide);  // of known size, unrolled
      } else {
        block(i, j, std::min(kSide, rows - i), std::min(kSide, columns - j));
      }
    }
  }
}

// out[j, column] = map(from[row, j], row, j) for the rows of a tile; zero where it is padded.
template <class T, class Map>
void load(const Tile& tile, int64_t n, View<const T> from, View<T> out, const Map& map) {
  transpose<T>(tile.size, n, from.at(tile.begin), out,
               [&](T value, int64_t i, int64_t j) { return map(value, tile.begin + i, j); });
  for (int64_t j = 0; j < n && tile.size < tile.width; ++j) {
    std::fill(out.row(j) + tile.size, out.row(j) + tile.width, T(0));
  }
}

// out[row, j] = map(from[j, column], row, j) for the rows of a tile.
template <class T, class Map>
void store(const Tile& tile, int64_t n, View<const T> from, View<T> out, const Map& map) {
  transpose<T>(n, tile.size, from, out.at(tile.begin),
               [&](T value, int64_t j, int64_t k) { return map(value, tile.begin + k, j); });
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
