// The backward kernel for short sequences, for up to 56 and up to 64 rows and columns.
#include "launch.h"
#include "strip_attention_backward.h"
#include "strip_launch.h"
#include "strip_plan.h"

namespace rka::cuda {
namespace {

extern __shared__ float4 dynamic_shared[];

template <int TILES>
__global__ void __launch_bounds__(WARPS* LANES, strip_backward_blocks(TILES))
    strip_backward_kernel(const __grid_constant__ Problem p) {
#pragma unroll 1
  for (int b = blockIdx.x; b < p.batch; b += gridDim.x) {
    strip_backward<Shape<TILES>>(p, b, blockIdx.x, reinterpret_cast<float*>(dynamic_shared));
  }
}

template <int TILES>
const char* launch(const Problem& p, int sequences, void* stream) {
  return launch_strips(strip_backward_kernel<TILES>, dim3(sequences), Shape<TILES>::BACKWARD_FLOATS,
                       stream, p);
}

}  // namespace

const char* launch_strip_backward(const Problem& p, int tiles, int sequences, void* stream) {
  return tiles == FEWEST_TILES ? launch<FEWEST_TILES>(p, sequences, stream)
                               : launch<MOST_TILES>(p, sequences, stream);
}

}  // namespace rka::cuda
