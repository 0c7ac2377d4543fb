// The C++ backend for any processor.
#define RKA_ISA plain
#include "dispatch.h"

namespace rka {
const InstructionSet instructions_plain = {"plain",      bytes_of,      run_forward,
                                           run_backward, run_relations, run_relations_backward,
                                           words_row,    normals_row};
}
