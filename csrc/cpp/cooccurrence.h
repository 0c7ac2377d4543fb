// Counts between the items of a sequence, looked up in a sparse symmetric matrix.
#pragma once

#include <algorithm>
#include <cstdint>

namespace rka {

// Compressed rows with sorted columns.
struct Counts {
  const int64_t* indptr;
  const int32_t* indices;
  const int32_t* data;
};

// Positions of a sequence in the order of their items.
inline void order_items(const int64_t* items, int64_t n, int32_t* order) {
  for (int64_t i = 0; i < n; ++i) order[i] = int32_t(i);
  std::stable_sort(order, order + n, [&](int32_t a, int32_t b) { return items[a] < items[b]; });
}

// Writes the counts of the item at order[rank] with every item not above it, from order[first] on,
// at both places of the symmetric (n, n) block. `counted` (n), or null, marks positions of a user
// that is in the counts: one is taken from every pair of them.
//
// The columns come in ascending order, so each search starts where the last one ended and doubles
// its step: most of them stay within a cache line.
inline void count_row(const Counts& counts, const int64_t* items, const bool* counted, int64_t n,
                      const int32_t* order, int64_t first, int64_t rank, float* block) {
  const int64_t i = order[rank], item = items[i];
  const int32_t* at = counts.indices + counts.indptr[item];
  const int32_t* const end = counts.indices + counts.indptr[item + 1];
  for (int64_t r = first; r <= rank; ++r) {
    const int64_t j = order[r], column = items[j];
    float count = 0;
    int64_t step = 1;
    while (end - at > step && at[step] < column) at += step, step *= 2;
    at = std::lower_bound(at, end - at > step ? at + step + 1 : end, int32_t(column));
    if (at < end && *at == column) count = float(counts.data[at - counts.indices]);
    if (counted && counted[i] && counted[j]) count -= 1;
    block[i * n + j] = block[j * n + i] = count;
  }
}

}  // namespace rka
