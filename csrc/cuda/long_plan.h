// Which problems the kernels for long sequences serve, and where one launch leaves what the next
// one reads.
#pragma once

#include "strip_plan.h"

namespace rka::cuda {

// Matrices are cut into squares of 64 x 64, which come to shared memory one by one.
using Square = Shape<MOST_TILES>;
constexpr int SIDE = Square::SIZE;
constexpr int SQUARE_FLOATS = SIDE * SIDE;  // in global memory

// A right operand that is read by columns: at a pitch of 4 modulo 32 words no bank is met twice.
struct ByColumns {
  static constexpr int TILES = Square::TILES, SIZE = SIDE, PITCH = SIDE + 4;
};

// Some rows of a sequence, relative times and ready-made relations are the other kernels' work.
inline bool serves_long(const Problem& p) {
  return !p.row_offset && !p.time_table && !p.correlation && p.rows > 0 && p.keys > 0 &&
         p.keys <= MAX_KEYS;
}

// What the launches for some sequences, `first` and the next ones, share in global memory.
struct Workspace {
  int first = 0, sequences = 0;
  int row_squares = 0, key_squares = 0;
  int priors = 0;  // of a sequence: of every head if each has a mask of its own, else one
  float* relations = nullptr;     // K, then its factor: squares of the lower triangle, row by row
  float* prior = nullptr;         // squares as the threads hold them, and ...
  float* prior_weight = nullptr;  // ... what a row of them is multiplied with
  float* rounded = nullptr;       // of each row of squares: not zero if TF32 rounds some count

  RKA_HD static int index(int i, int j) { return i * (i + 1) / 2 + j; }
  RKA_HD float* relation(int sequence, int i, int j) const {
    const int64_t count = index(key_squares, 0);
    return relations + (sequence * count + index(i, j)) * SQUARE_FLOATS;
  }
  RKA_HD int64_t prior_row(int sequence, int prior, int i) const {
    return (int64_t(sequence) * priors + prior) * row_squares + i;
  }
  RKA_HD float* prior_square(int64_t row, int j) const {
    return prior + (row * key_squares + j) * SQUARE_FLOATS;
  }
  int64_t floats_of_relations() const {
    return int64_t(sequences) * index(key_squares, 0) * SQUARE_FLOATS;
  }
  int64_t floats_of_prior() const {
    return prior_row(sequences, 0, 0) * key_squares * SQUARE_FLOATS;
  }
  int64_t floats_of_weights() const { return prior_row(sequences, 0, 0) * SIDE; }
  int64_t floats_of_rounded() const { return (int64_t(sequences) * key_squares + 3) / 4 * 4; }
  int64_t floats() const {
    return floats_of_relations() + floats_of_prior() + floats_of_weights() + floats_of_rounded();
  }
  void place(float* at) {
    relations = at, prior = at + floats_of_relations();
    prior_weight = prior + floats_of_prior(), rounded = prior_weight + floats_of_weights();
  }
};

constexpr int64_t WORKSPACE = 128 << 20;  // bytes, unless one sequence alone needs more

// The same for the backward pass: what the launches after attention make of gradients.
struct Adjoint {
  int heads = 0;
  float* d_factor = nullptr;  // of every head, for the mean of K and its transpose: lower triangles
  float* lower = nullptr;     // Phi(L' d L) L^-1
  float* whole = nullptr;     // its transpose times L^-1: all squares
  float* grams = nullptr;     // of the two Gram matrices: all squares as the threads hold them
  float* gate = nullptr;      // of each row of squares: shares of the gate's, and ...
  float* shares = nullptr;    // ... of the kernels' parameters

  static constexpr int SHARES = 8;
  RKA_HD float* d_factor_of(const Workspace& w, int sequence, int head, int i, int j) const {
    const int64_t count = w.index(w.key_squares, 0);
    const int64_t first = (int64_t(sequence) * heads + head) * count + w.index(i, j);
    return d_factor + first * SQUARE_FLOATS;
  }
  RKA_HD float* lower_row(const Workspace& w, int sequence, int i) const {
    const int64_t count = w.index(w.key_squares, 0);
    return lower + (sequence * count + w.index(i, 0)) * SQUARE_FLOATS;
  }
  RKA_HD float* whole_row(const Workspace& w, int sequence, int i) const {
    return whole + row(w, sequence, i) * w.key_squares * SQUARE_FLOATS;
  }
  RKA_HD float* gram_row(const Workspace& w, int sequence, int i, int user) const {
    return grams + (2 * row(w, sequence, i) + user) * w.key_squares * SQUARE_FLOATS;
  }
  RKA_HD float* gate_of(const Problem& p, const Workspace& w, int sequence, int i) const {
    return gate + row(w, sequence, i) * p.feature_width;
  }
  RKA_HD float* shares_of(const Workspace& w, int sequence, int i) const {
    return shares + row(w, sequence, i) * SHARES;
  }
  RKA_HD static int64_t row(const Workspace& w, int sequence, int i) {
    return int64_t(sequence) * w.key_squares + i;
  }

  // Lays everything out from `at` on; the floats it takes.
  int64_t place(const Problem& p, const Workspace& w, float* at) {
    const int64_t rows = row(w, w.sequences, 0), triangle = w.floats_of_relations(),
                  square = rows * w.key_squares * SQUARE_FLOATS;
    heads = p.heads;
    int64_t size = 0;
    const auto take = [&](float*& part, int64_t floats) { part = at + size, size += floats; };
    take(d_factor, heads * triangle), take(lower, triangle), take(whole, square);
    take(grams, 2 * square), take(shares, rows * SHARES), take(gate, rows * p.feature_width);
    return size;
  }
};

// For as many sequences at a time as fit into so many bytes, in equal parts.
inline Workspace workspace_of(const Problem& p, int64_t limit, bool backward = false) {
  Workspace w;
  w.row_squares = (p.rows + SIDE - 1) / SIDE, w.key_squares = (p.keys + SIDE - 1) / SIDE;
  w.priors = !p.has_shape() || !p.cooccurrence ? 0 : p.mask.data && p.mask.head ? p.heads : 1;
  w.sequences = 1;
  const int64_t more = backward ? Adjoint().place(p, w, nullptr) : 0;
  const int64_t bytes = (w.floats() + more) * int64_t(sizeof(float));
  const int most = int(std::clamp<int64_t>(limit / bytes, 1, p.batch));
  const int launches = (p.batch + most - 1) / most;
  w.sequences = (p.batch + launches - 1) / launches;
  return w;
}

// Floats that a block sets aside: rows of squares.
constexpr int LONG_ROWS = 2, LONG_BACKWARD_ROWS = 8;
inline int64_t long_scratch(const Workspace& w, int rows) {
  return int64_t(rows) * w.key_squares * SQUARE_FLOATS;
}

// Floats of shared memory: squares, and what stands beside them.
constexpr int MAX_SQUARES = MAX_KEYS / SIDE;
constexpr int LONG_FLOATS = 2 * Square::SQUARE + 2 * MAX_SQUARES,
              RELATE_FLOATS = LONG_FLOATS + 4 * SIDE, FACTOR_FLOATS = 3 * Square::SQUARE + SIDE,
              LONG_BACKWARD_FLOATS = LONG_FLOATS + Square::SQUARE;

}  // namespace rka::cuda
