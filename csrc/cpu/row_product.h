// Products of rows with a triangular matrix, rows t, without transposing the rows.
//
// For batches so small that transposing the matrix for tiles would cost as much as the product.
// Here t is the right operand, as stored in `lu`. Columns J of the result need, beside t[J, J],
// the rows I of t with I > J (lower) or I < J (upper):
//
//     (b t)[:, J] = b[:, J] t[J, J] + b[:, I] t[I, J]
#pragma once

#include "cpu/triangular.h"

namespace invcap::cpu {

// out = b t for each row b of `rows`, (count, n); on all threads. t is a `factor`.
template <class T>
void multiply_rows(const Triangular<T>& t, View<const T> rows, View<T> out, int64_t count);

}  // namespace invcap::cpu
