// Buckets of relative times: floor(ln(max(1, seconds)) / 0.301), at most the last. The edges are
// whole seconds from float64, so that every backend agrees: see rka_fast/ops/arguments.py.
#pragma once

#include "common.h"

namespace rka {
inline namespace RKA_ISA {

constexpr int TIME_BUCKETS = 129;

// The least number of seconds of each bucket.
struct TimeEdges {
  uint64_t seconds[TIME_BUCKETS];

  TimeEdges() {
    for (int k = 0; k < TIME_BUCKETS; ++k) seconds[k] = uint64_t(std::ceil(std::exp(0.301 * k)));
  }
};

// `seconds` are those of TimeEdges.
RKA_HD int time_bucket(const uint64_t* seconds, int64_t a, int64_t b) {
  const uint64_t apart = a > b ? uint64_t(a) - uint64_t(b) : uint64_t(b) - uint64_t(a);
  if (apart < 2) return 0;
  const int near = int(std::log(float(apart)) * float(1 / 0.301));  // right, or one off
  int k = near < TIME_BUCKETS ? near : TIME_BUCKETS - 1;
  if (apart < seconds[k]) return k - 1;
  return k + 1 < TIME_BUCKETS && apart >= seconds[k + 1] ? k + 1 : k;
}

}  // namespace RKA_ISA
}  // namespace rka
