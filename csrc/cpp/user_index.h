// Counts between the items of a sequence, made from who has what.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "cooccurrence.h"

namespace rka {

// Which items every user has and which users have every item, compressed rows with sorted columns,
// and the counts between the items that most users have, which would take longest to make.
struct UserIndex {
  const int64_t* user_begin;
  const int32_t* user_items;
  const int64_t* item_begin;
  const int32_t* item_users;
  const int32_t* head;          // place of an item among those of head_counts, or -1
  const int32_t* head_counts;   // (heads, heads)
  int64_t heads, users, items;  // items with the padding
  int64_t events;

  // Whether row `at` lies within the columns, of which there are as many as events.
  bool fits(const int64_t* begin, int64_t at) const {
    return 0 <= begin[at] && begin[at] <= begin[at + 1] && begin[at + 1] <= events;
  }
};

// The distinct items of one sequence, as runs of positions in the order of the items, and for every
// item which run it is in.
class Runs {
 public:
  explicit Runs(int64_t items) : run_of_(size_t(items), -1) {}

  void set(const int64_t* items, const int32_t* order, int64_t n) {
    for (int32_t item : items_) run_of_[size_t(item)] = -1;
    items_.clear(), begins_.clear();
    for (int64_t r = 0; r < n; ++r) {
      const int64_t item = items[order[r]];
      if (item == 0 || (!items_.empty() && items_.back() == item)) continue;  // 0 is padding
      run_of_[size_t(item)] = int32_t(items_.size());
      items_.push_back(int32_t(item)), begins_.push_back(r);
    }
    begins_.push_back(n);
  }
  int64_t size() const { return int64_t(items_.size()); }
  int64_t item(int64_t run) const { return items_[size_t(run)]; }
  int64_t begin(int64_t run) const { return begins_[size_t(run)]; }
  int64_t end(int64_t run) const { return begins_[size_t(run) + 1]; }

  // One more for the run of every item among these, which are sorted. False where one is no item.
  bool tally(const int32_t* first, const int32_t* last, int32_t* counts) const {
    if (last - first <= 16 * size()) {
      for (; first < last; ++first) {
        if (uint64_t(*first) >= run_of_.size()) return false;
        const int32_t run = run_of_[size_t(*first)];
        if (run >= 0) ++counts[run];
      }
      return true;
    }
    for (int64_t run = 0; run < size(); ++run)  // somebody who has very many
      counts[run] += std::binary_search(first, last, items_[size_t(run)]);
    return true;
  }

 private:
  std::vector<int32_t> run_of_, items_;
  std::vector<int64_t> begins_;
};

// Asks for the stored counts of a run with the later ones ahead of their use: they are far apart.
inline void fetch_run(const UserIndex& index, const Runs& runs, int64_t run) {
  const int32_t head = index.head[runs.item(run)];
  if (head < 0) return;
  for (int64_t other = run; other < runs.size(); ++other) {
    const int32_t column = index.head[runs.item(other)];
    if (column >= 0) __builtin_prefetch(index.head_counts + head * index.heads + column);
  }
}

// Writes the counts of the item of a run with those of other runs at both places of the symmetric
// (n, n) block, which begins as zeros. Every pair is written once: with an item of the head by the
// other one, else by the earlier run. `counted` as in count_row; `tally` has a place a run. False
// where the index does not fit together.
inline bool count_run(const UserIndex& index, const Runs& runs, int64_t run, const bool* counted,
                      int64_t n, const int32_t* order, int32_t* tally, float* block) {
  const int64_t item = runs.item(run);
  const int32_t head = index.head[item];
  if (head < 0) {
    if (!index.fits(index.item_begin, item)) return false;
    std::fill(tally, tally + runs.size(), 0);
    for (int64_t k = index.item_begin[item]; k < index.item_begin[item + 1]; ++k) {
      const int64_t user = index.item_users[k];
      if (user < 0 || user >= index.users || !index.fits(index.user_begin, user)) return false;
      if (!runs.tally(index.user_items + index.user_begin[user],
                      index.user_items + index.user_begin[user + 1], tally))
        return false;
    }
  }
  for (int64_t other = 0; other < runs.size(); ++other) {
    const int32_t other_head = index.head[runs.item(other)];
    if ((head < 0) == (other_head < 0) ? other < run : head >= 0) continue;
    const int32_t count =
        head < 0 ? tally[other] : index.head_counts[head * index.heads + other_head];
    for (int64_t a = runs.begin(run); a < runs.end(run); ++a)
      for (int64_t b = runs.begin(other); b < runs.end(other); ++b) {
        const int64_t i = order[a], j = order[b];
        const bool own = counted && counted[i] && counted[j];
        block[i * n + j] = block[j * n + i] = float(count - own);
      }
  }
  return true;
}

}  // namespace rka
