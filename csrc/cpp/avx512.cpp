// The C++ backend for AVX-512.
//
// Standard headers come first: their inline functions must stay runnable everywhere.
#if defined(__x86_64__)
#include <immintrin.h>

#include <cfloat>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <type_traits>
#include <utility>

#if defined(__clang__)
#pragma clang attribute push( \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,prefer-vector-width=512")
#endif
#define RKA_ISA avx512
#define RKA_AVX512
#include "dispatch.h"

namespace rka {
const InstructionSet instructions_avx512 = {"avx512",     bytes_of,      run_forward,
                                            run_backward, run_relations, run_relations_backward,
                                            words_row,    normals_row};
}
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
