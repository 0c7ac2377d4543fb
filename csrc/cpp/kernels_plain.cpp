// The CPU kernels for any processor.
#define RKA_ISA plain
#include "kernels.h"

namespace rka {
const Kernels kernels_plain = {"plain",       bytes_of,  run_forward,
                              run_backward, words_row, normals_row};
}
