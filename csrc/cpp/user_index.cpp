// Co-occurrence counts made from who has what, as a PyTorch operator on LibTorch's stable ABI only.
#include "user_index.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <atomic>
#include <utility>
#include <vector>

#include "positions.h"

namespace rka {
namespace {

constexpr int64_t AHEAD = 2;  // runs whose counts are on their way

// Counts (B, n, n) float32 at every pair of positions of items (B, n) int64; 0 is padding.
Tensor gather_indexed(Tensor user_begin, Tensor user_items, Tensor item_begin, Tensor item_users,
                      Tensor head, Tensor head_counts, Tensor items, MaybeTensor counted) {
  for (const auto& [name, x] : {std::pair("user_begin", user_begin), {"item_begin", item_begin}})
    expect(name, x, ScalarType::Long, 1);
  for (const auto& [name, x] : {std::pair("user_items", user_items), {"item_users", item_users}})
    expect(name, x, ScalarType::Int, 1);
  STD_TORCH_CHECK(user_items.size(0) == item_users.size(0), "item_users: expected ",
                  user_items.size(0), " users, one for each of user_items, got ",
                  item_users.size(0));
  expect("head", head, ScalarType::Int, 1);
  expect("head_counts", head_counts, ScalarType::Int, 2);
  const int64_t rows = item_begin.size(0) - 1;
  STD_TORCH_CHECK(head.size(0) == rows, "head: expected ", rows, " places, got ", head.size(0));
  STD_TORCH_CHECK(head_counts.size(0) == head_counts.size(1), "head_counts: expected a square");
  const Positions at(items, counted, rows);
  const int64_t B = at.B, n = at.n;
  const UserIndex index{static_cast<const int64_t*>(user_begin.data_ptr()),
                        static_cast<const int32_t*>(user_items.data_ptr()),
                        static_cast<const int64_t*>(item_begin.data_ptr()),
                        static_cast<const int32_t*>(item_users.data_ptr()),
                        static_cast<const int32_t*>(head.data_ptr()),
                        static_cast<const int32_t*>(head_counts.data_ptr()),
                        head_counts.size(0),
                        user_begin.size(0) - 1,
                        rows,
                        user_items.size(0)};
  for (int64_t i = 0; i < B * n; ++i)
    STD_TORCH_CHECK(index.head[at.item[i]] < index.heads, "head: expected places below ",
                    index.heads);
  Tensor out = torch::stable::new_zeros(items, std::vector<int64_t>{B, n, n}, ScalarType::Float);
  float* block = static_cast<float*>(out.data_ptr());
  std::atomic<bool> fits{true};
  torch::stable::parallel_for(0, B * n, 64, [&](int64_t begin, int64_t end) {
    Runs runs(rows);
    std::vector<int32_t> order(static_cast<size_t>(n)), tally(static_cast<size_t>(n));
    int64_t current = -1;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t b = i / n;
      if (b != current) {
        order_items(at.items(b), n, order.data());
        runs.set(at.items(b), order.data(), n);
        current = b;
        for (int64_t run = i % n; run < runs.size() && run < i % n + AHEAD; ++run)
          fetch_run(index, runs, run);
      }
      if (i % n + AHEAD < runs.size()) fetch_run(index, runs, i % n + AHEAD);
      if (i % n < runs.size() && !count_run(index, runs, i % n, at.counted(b), n, order.data(),
                                            tally.data(), block + b * n * n))
        fits = false;
    }
  });
  STD_TORCH_CHECK(fits, "item_users: expected users of user_begin, and user_items of item_begin");
  return out;
}

}  // namespace
}  // namespace rka

STABLE_TORCH_LIBRARY_FRAGMENT(rka_fast_native, m) {
  m.def(
      "gather_indexed(Tensor user_begin, Tensor user_items, Tensor item_begin, Tensor item_users, "
      "Tensor head, Tensor head_counts, Tensor items, Tensor? counted) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(rka_fast_native, CPU, m) {
  m.impl("gather_indexed", TORCH_BOX(&rka::gather_indexed));
}
