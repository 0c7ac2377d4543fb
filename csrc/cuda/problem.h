// One call of the operator as a plain struct: what the host fills in and every block reads.
//
// B sequences, H heads, n rows (queries), m keys; names as in rka_fast/ops/arguments.py. Offsets
// are 64 bits wide. Short names, the same in all kernels of this folder:
//
//   p  the call (Problem)                    b, head  sequence and head
//   f  a block's view of it (Frame), or s    t        the tile of rows in hand (Tile)
//      for short ones (Sequence) and long    r, j     row of the tile and key
//      ones (Long)                           i, j     of long ones: a square
//   l  where a thread stands (Lane)          g, half  of a strip: row g + 8 half, column 2 l.t
//   x, y, a, b, c  strips: what the formulas at the head of skew_normal.py call by these letters
//
// Files have the stems of the other backends (philox, covariance, cholesky, relations, skew_normal,
// attention, and _backward where it is a file); with strip_ before it, the same for short
// sequences, with long_ for long ones. Only here: block, warp and scalar (what the device offers),
// frame, strip, strip_sequence, long_sequence and long_head (where a sequence is held), triangle
// and products (matrices there), launch, strip_plan and long_plan (which kernel).
#pragma once

#include "../times.h"
#include "scalar.h"

namespace rka::cuda {

// A (B, H, rows, width) tensor whose innermost stride is 1.
struct Heads {
  const void* data = nullptr;
  int64_t batch = 0, head = 0, row = 0;
  int width = 0;
};

// A tensor broadcast to (B, H, n, m): stride 0 where it repeats.
template <class T>
struct Pairs {
  const T* data = nullptr;
  int64_t batch = 0, head = 0, row = 0, column = 0;

  RKA_DEVICE T at(int b, int h, int t, int j) const {
    return data[b * batch + h * head + t * row + j * column];
  }
};

// Where a block keeps what. Tiles are transposed: element (column j, row r) at j * pitch + r, so
// that four rows of one column are one load and the rows of a tile never collide in a bank.
struct Layout {
  int tile_rows = 0;   // R, a power of two
  int tile_shift = 0;  // log2 R
  int pitch = 0;       // floats between two columns of a tile; pitch / 4 is odd
  int tiles = 0;       // tiles held at once
  int keys4 = 0;       // m rounded up to a multiple of 4
  int depth = 0;       // channels staged at once
  int stage_pitch = 0;
  bool factor_in_shared = true;

  // In floats.
  RKA_HD int64_t factor_size() const { return int64_t(keys4 / 4) * (keys4 / 4 + 1) / 2 * 16; }
  RKA_HD int64_t tile_size() const { return int64_t(keys4) * pitch; }
  RKA_HD int64_t stage_size() const { return int64_t(depth) * stage_pitch; }
  RKA_HD int64_t shared_size() const;
};

constexpr int PARTIALS = 4;    // sums that one reduction can form at once
constexpr int ROW_VALUES = 8;  // numbers kept per row of the tile
constexpr int KEY_VALUES = 4;  // numbers kept per key

RKA_HD int64_t Layout::shared_size() const {
  return (factor_in_shared ? factor_size() : 0) + tiles * tile_size() + stage_size() +
         PARTIALS * THREADS + ROW_VALUES * tile_rows + KEY_VALUES * keys4 + 16 + 4;
}

// What a block keeps in global memory: the factor where shared memory is too small, then, for the
// backward pass, the gradient of K or L (m x m) and the tiles that are set aside.
constexpr int SAVED_TILES = 4;

// One of the products that a head begins with or ends on: rows of queries (of the gradient of the
// output) times rows of keys (of values), and where their gradients go.
struct Operand {
  Heads left, right;
  float *d_left = nullptr, *d_right = nullptr;
  float scale = 1.0f;
};

struct Problem {
  int batch = 0, heads = 0, rows = 0, keys = 0, feature_width = 0;
  Scalar scalar = Scalar::float32;
  Mode mode = Mode::location;
  Activation activation = Activation::identity;
  bool causal = false;
  float dropout = 0, jitter = 0;
  float location_scale = 0;  // of the location's products
  int row_offset = 0;        // query t is position t + row_offset: of noise, causality and prior

  Heads query, key, value, scale_query, scale_key, shape_query, shape_key;
  Pairs<float> bias;
  Pairs<uint8_t> mask;
  const float* scale_bias = nullptr;     // (H,)
  const float* features = nullptr;       // (B, m, df)
  const float* concentration = nullptr;  // (2,)
  const float* mixture = nullptr;        // (B or 1, 3)
  int64_t mixture_batch = 0;
  const float* gate = nullptr;          // (B, df)
  const float* cooccurrence = nullptr;  // (B, m, m)
  const uint8_t* padding = nullptr;     // (B, m)
  const int64_t* seed = nullptr;
  const float* time_table = nullptr;  // (H or 1, TIME_BUCKETS), added to the location
  int64_t time_table_head = 0;        // stride
  const int64_t *row_times = nullptr, *key_times = nullptr;  // (B, n), (B, m)
  uint64_t time_edges[TIME_BUCKETS];                         // with a table only
  // Ready-made, in place of features and counts.
  const float *correlation = nullptr, *factor = nullptr;  // (B, m, m)
  Pairs<float> prior;

  void* output = nullptr;  // (B, H, n, dv)

  // Backward: each of these may be null, which means not wanted. All contiguous float32.
  Heads grad;
  float *d_query = nullptr, *d_key = nullptr, *d_value = nullptr;
  float *d_scale_query = nullptr, *d_scale_key = nullptr;
  float *d_shape_query = nullptr, *d_shape_key = nullptr;
  float* d_features = nullptr;
  float *d_correlation = nullptr, *d_factor = nullptr;
  float* d_bias = nullptr;  // (B, H, n, m), zero where the block writes nothing
  // Shares of one sequence, (B, ...): the caller adds them up in a fixed order.
  float *d_scale_bias = nullptr, *d_concentration = nullptr, *d_mixture = nullptr;
  float* d_gate = nullptr;
  float* d_time_table = nullptr;  // (B, H, TIME_BUCKETS)

  float* scratch = nullptr;
  int64_t scratch_per_block = 0;
  // Backward for short sequences: those of one launch, first .. last - 1, and what its kernels hand
  // from one to the next.
  int first = 0, last = 0;
  float* handed = nullptr;
  Operand operands[4];  // for short sequences, in the order of their use: chosen at run time
  Layout layout;

  RKA_HD bool has_spread() const { return mode != Mode::location; }
  RKA_HD bool has_shape() const { return has_spread() && shape_query.data; }
  // The mean of normal logits is their location: no covariance is needed.
  RKA_HD bool needs_covariance() const {
    return has_spread() && (mode == Mode::sample || has_shape());
  }
  RKA_HD bool wants_covariance() const {
    return needs_covariance() &&
           (d_features || d_concentration || d_mixture || d_gate || d_correlation || d_factor);
  }
};

constexpr int64_t SMALL_SHARED = 99 * 1024;   // per block on consumer cards
constexpr int64_t LARGE_SHARED = 227 * 1024;  // per block on sm_90
constexpr int MAX_KEYS = 1024;

// The largest tile that fits: fewer passes over the factor. Up to 128 keys the small budget
// suffices, so that two blocks share a large multiprocessor.
inline Layout choose_layout(int keys, int rows, int tiles, int64_t shared_limit) {
  Layout layout;
  layout.keys4 = (keys + 3) / 4 * 4;
  layout.tiles = tiles;
  const int64_t budget = keys <= 128 && shared_limit > SMALL_SHARED ? SMALL_SHARED : shared_limit;
  int widest = 4;  // no wider than the rows there are, and about 4096 elements
  while (widest < 64 && widest < rows && 2 * widest * layout.keys4 <= 4096) widest *= 2;
  for (const bool in_shared : {true, false}) {
    layout.factor_in_shared = in_shared;
    for (int r = widest; r >= (in_shared && widest >= 8 ? 8 : 4); r /= 2) {
      layout.tile_rows = r;
      layout.tile_shift = __builtin_ctz(r);
      layout.pitch = r / 4 % 2 ? r : r + 4;
      layout.stage_pitch = r + layout.keys4;
      layout.stage_pitch += layout.stage_pitch / 4 % 2 ? 0 : 4;
      for (layout.depth = 32; layout.depth >= 2; layout.depth /= 2) {
        if (layout.shared_size() * int64_t(sizeof(float)) <= budget) return layout;
      }
    }
  }
  layout.tile_rows = 0;  // does not fit
  return layout;
}

inline int64_t scratch_per_block(const Problem& p, bool backward) {
  const Layout& l = p.layout;
  int64_t size = l.factor_in_shared ? 0 : l.factor_size();
  if (backward) {
    size += SAVED_TILES * l.tile_size() + (int64_t(p.keys) * p.keys + 3) / 4 * 4 +
            (int64_t(p.keys) * p.feature_width + 3) / 4 * 4;
    if (p.d_time_table) size += THREADS * TIME_BUCKETS;
  }
  return size;
}

}  // namespace rka::cuda
