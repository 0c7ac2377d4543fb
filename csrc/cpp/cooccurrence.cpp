// The gather of co-occurrence counts as a PyTorch operator, on LibTorch's stable ABI only.
#include "cooccurrence.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <vector>

#include "positions.h"

namespace rka {
namespace {

// Counts (B, n, n) float32 at every pair of positions of items (B, n) int64; 0 is padding.
// indptr int64, indices and data int32: compressed rows with sorted columns, row 0 empty.
Tensor gather(Tensor indptr, Tensor indices, Tensor data, Tensor items, MaybeTensor counted) {
  expect("indptr", indptr, ScalarType::Long, 1);
  expect("indices", indices, ScalarType::Int, 1);
  expect("data", data, ScalarType::Int, 1);
  STD_TORCH_CHECK(indices.size(0) == data.size(0), "data: expected ", indices.size(0),
                  " counts, one for each index, got ", data.size(0));
  const int64_t rows = indptr.size(0) - 1;
  const Positions at(items, counted, rows);
  const int64_t B = at.B, n = at.n;
  const Counts counts{static_cast<const int64_t*>(indptr.data_ptr()),
                      static_cast<const int32_t*>(indices.data_ptr()),
                      static_cast<const int32_t*>(data.data_ptr())};
  for (int64_t i = 0; i < B * n; ++i) {
    const int64_t* row = counts.indptr + at.item[i];
    STD_TORCH_CHECK(0 <= row[0] && row[0] <= row[1] && row[1] <= indices.size(0),
                    "indptr: expected ascending positions of indices, got ", row[0], " and ",
                    row[1], " for item ", at.item[i]);
  }
  Tensor out = torch::stable::new_zeros(items, std::vector<int64_t>{B, n, n}, ScalarType::Float);
  float* block = static_cast<float*>(out.data_ptr());
  std::vector<int32_t> order(static_cast<size_t>(B * n));
  std::vector<int64_t> first(static_cast<size_t>(B));  // after the padding, item 0
  torch::stable::parallel_for(0, B, 16, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      order_items(at.items(b), n, order.data() + b * n);
      first[size_t(b)] = std::count(at.items(b), at.items(b) + n, 0);
    }
  });
  torch::stable::parallel_for(0, B * n, 64, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t b = i / n;
      if (i % n >= first[size_t(b)])
        count_row(counts, at.items(b), at.counted(b), n, order.data() + b * n, first[size_t(b)],
                  i % n, block + b * n * n);
    }
  });
  return out;
}

}  // namespace
}  // namespace rka

STABLE_TORCH_LIBRARY_FRAGMENT(rka_fast_native, m) {
  m.def(
      "gather(Tensor indptr, Tensor indices, Tensor data, Tensor items, Tensor? counted) -> "
      "Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(rka_fast_native, CPU, m) { m.impl("gather", TORCH_BOX(&rka::gather)); }
