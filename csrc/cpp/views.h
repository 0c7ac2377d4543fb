// Rows of strided arrays of any storage type, in and out of the precision of the computation.
#pragma once

#include <type_traits>

#include "../half.h"
#include "problem.h"
#include "simd.h"

namespace rka {
inline namespace RKA_ISA {

// To a storage type; float and double convert as the language does.
template <class S, class T>
inline S convert(T x) {
  if constexpr (std::is_class_v<S>)
    return S::of(float(x));
  else
    return S(x);
}

// The common case in whole vectors: no conversion, unit stride. Into a padded row a last vector is
// stored whole, zeros and all, which is cheaper than a part of it, and so are later loads.
template <class T>
inline void copy_padded(const T* in, int count, T scale, T* out) {
  int i = 0;
  for (; i + LANES<T> <= count; i += LANES<T>) store(out + i, load(in + i) * scale);
  if (i < count) store<T>(out + i, load_first<T>(in + i, count - i) * scale);
}
// Out of one, to no more than `count` elements: the last vector overlaps the one before.
template <class T>
inline void copy_exact(const T* in, int count, T scale, T* out) {
  constexpr int W = LANES<T>;
  if (count < W) {
    for (int i = 0; i < count; ++i) out[i] = in[i] * scale;
    return;
  }
  for (int i = 0; i + W <= count; i += W) store(out + i, load(in + i) * scale);
  if (count % W) store(out + count - W, load(in + count - W) * scale);
}

template <class S, class T>
inline void copy_in(const S* in, int64_t stride, int count, T scale, T* out) {
  if constexpr (std::is_same_v<S, T>) {
    if (stride == 1) return copy_padded(in, count, scale, out);
  }
  if (stride == 1)
    for (int i = 0; i < count; ++i) out[i] = T(in[i]) * scale;
  else
    for (int i = 0; i < count; ++i) out[i] = T(in[i * stride]) * scale;
  for (int i = count; i % LANES<T>; ++i) out[i] = T(0);
}
template <class S, class T>
inline void copy_out(const T* in, int count, T scale, S* out) {
  if constexpr (std::is_same_v<S, T>)
    copy_exact(in, count, scale, out);
  else
    for (int i = 0; i < count; ++i) out[i] = convert<S, T>(in[i] * scale);
}

inline int size_of(Type type) {
  return type == Type::f64 || type == Type::i64 ? 8
         : type == Type::f32                    ? 4
         : type == Type::u8                     ? 1
                                                : 2;
}

// The view from `elements` on.
inline View shifted(View v, int64_t elements) {
  v.data += elements * size_of(v.type);
  return v;
}

enum class For { reading, writing };

// Asks for rows [row, row + count) of a (..., rows, width) slice ahead of their use, into the L2
// cache: each is touched once, and waiting for it would take longer than what is done with it.
template <For USE>
inline void fetch(const View& v, int64_t i, int64_t j, int64_t row, int count, int width) {
  if (!v) return;
  const int size = size_of(v.type);
  for (int r = 0; r < count; ++r) {
    const int64_t at = i * v.stride[0] + j * v.stride[1] + (row + r) * v.stride[2];
    const uintptr_t begin = uintptr_t(v.data) + uintptr_t(at * size);
    for (uintptr_t line = begin / 64 * 64; line < begin + width * size; line += 64)
      __builtin_prefetch(reinterpret_cast<const void*>(line), USE == For::writing, 2);
  }
}

// Elements (i, j, k, l .. l + count - 1) of a view, times `scale`, and zeros up to a whole vector.
template <class T>
inline void read_row(const View& v, int64_t i, int64_t j, int64_t k, int64_t l, int count, T scale,
                     T* out) {
  const int64_t at = i * v.stride[0] + j * v.stride[1] + k * v.stride[2] + l * v.stride[3];
  const int64_t s = v.stride[3];
  switch (v.type) {
    case Type::f32:
      return copy_in(reinterpret_cast<const float*>(v.data) + at, s, count, scale, out);
    case Type::f64:
      return copy_in(reinterpret_cast<const double*>(v.data) + at, s, count, scale, out);
    case Type::f16:
      return copy_in(reinterpret_cast<const Float16*>(v.data) + at, s, count, scale, out);
    case Type::bf16:
      return copy_in(reinterpret_cast<const BFloat16*>(v.data) + at, s, count, scale, out);
    case Type::u8:
      return copy_in(reinterpret_cast<const uint8_t*>(v.data) + at, s, count, scale, out);
    case Type::i64: return;  // times are read as they are
  }
}

// The same elements written; a view that is written has unit stride in its last dimension.
template <class T>
inline void write_row(const View& v, int64_t i, int64_t j, int64_t k, int64_t l, int count, T scale,
                      const T* in) {
  const int64_t at = i * v.stride[0] + j * v.stride[1] + k * v.stride[2] + l * v.stride[3];
  switch (v.type) {
    case Type::f32: return copy_out(in, count, scale, reinterpret_cast<float*>(v.data) + at);
    case Type::f64: return copy_out(in, count, scale, reinterpret_cast<double*>(v.data) + at);
    case Type::f16: return copy_out(in, count, scale, reinterpret_cast<Float16*>(v.data) + at);
    case Type::bf16: return copy_out(in, count, scale, reinterpret_cast<BFloat16*>(v.data) + at);
    case Type::u8:
    case Type::i64: return;
  }
}

template <class T>
inline T read(const View& v, int64_t i, int64_t j = 0, int64_t k = 0, int64_t l = 0) {
  T x[LANES<T>] = {};
  read_row(v, i, j, k, l, 1, T(1), x);
  return x[0];
}

// Rows [0, count) of a (..., rows, width) slice into a matrix of `ld` = width in whole vectors; the
// rest of every row and the rows up to `padded_rows` become zero, and so do rows whose `valid` is
// 0.
template <class T>
inline void pack(const View& v, int64_t i, int64_t j, int64_t row, int count, int width,
                 int padded_rows, int64_t ld, T scale, const T* valid, T* out) {
  for (int r = 0; r < padded_rows; ++r, out += ld) {
    const bool present = r < count && (!valid || valid[r] != T(0));
    if (present)
      read_row(v, i, j, row + r, 0, width, scale, out);
    else
      for (int64_t c = 0; c < ld; c += LANES<T>) store(out + c, Vec<T>{});
  }
}

}  // namespace RKA_ISA
}  // namespace rka
