// The items whose co-occurrence is asked for, as both ways of finding counts take them.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "../binding.h"

namespace rka {

inline void expect(const char* name, const Tensor& x, ScalarType type, int64_t dimensions) {
  STD_TORCH_CHECK(x.scalar_type() == type && x.dim() == dimensions && x.is_contiguous(), name,
                  ": expected a contiguous tensor of the dtype and dimensions of the schema");
}

// Sequences of items (B, n), 0 is padding; and whether a position is of a user who is in the
// counts, null where none is. Refuses other dtypes and shapes, and items that are none of `rows`.
struct Positions {
  Positions(const Tensor& items, const MaybeTensor& counted, int64_t rows) {
    STD_TORCH_CHECK(items.scalar_type() == ScalarType::Long && items.dim() == 2,
                    "items: expected int64 (sequences, positions)");
    B = items.size(0), n = items.size(1);
    STD_TORCH_CHECK(
        !counted || (counted->scalar_type() == ScalarType::Bool && counted->dim() == 2 &&
                     counted->size(0) == B && counted->size(1) == n),
        "counted: expected bool of the shape of items");
    ids_ = torch::stable::contiguous(items);
    item = static_cast<const int64_t*>(ids_->data_ptr());
    if (counted) {
      marks_ = torch::stable::contiguous(*counted);
      mark = static_cast<const bool*>(marks_->data_ptr());
    }
    for (int64_t i = 0; i < B * n; ++i)
      STD_TORCH_CHECK(item[i] >= 0 && item[i] < rows, "items: expected 0 .. ", rows - 1, ", got ",
                      item[i]);
  }
  const int64_t* items(int64_t b) const { return item + b * n; }
  const bool* counted(int64_t b) const { return mark ? mark + b * n : nullptr; }

  int64_t B, n;
  const int64_t* item;
  const bool* mark = nullptr;

 private:
  MaybeTensor ids_, marks_;
};

}  // namespace rka
