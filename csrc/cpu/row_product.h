// Products of rows that stay rows with a triangular matrix: rows t.
//
// For so few rows that turning the matrix around, as tiles need it for a transpose, costs as much
// as the product: here t is the right operand, as it lies in `lu`. Columns J of the result need
// those rows I of t that the triangle has beside J, I > J (lower) or I < J (upper):
//
//     (b t)[:, J] = b[:, J] t[J, J] + b[:, I] t[I, J]
#pragma once

#include "cpu/triangular.h"

namespace invcap::cpu {

// out = b t for each row b of `rows`, (count, n); on all threads. t is a `factor`.
template <class T>
void multiply_rows(const Triangular<T>& t, View<const T> rows, View<T> out, int64_t count);

}  // namespace invcap::cpu
