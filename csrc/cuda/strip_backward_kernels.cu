// The backward kernel for short sequences, of up to 56 rows and columns.
#include "launch.h"
#include "strip_attention_backward.h"
#include "strip_launch.h"
#include "strip_plan.h"

namespace rka::cuda {
namespace {

extern __shared__ float4 dynamic_shared[];

template <int TILES>
__global__ void __launch_bounds__(WARPS* LANES, STRIP_BLOCKS)
    strip_backward_kernel(const __grid_constant__ Problem p) {
#pragma unroll 1
  for (int b = blockIdx.x; b < p.batch; b += gridDim.x) {
    strip_backward<Shape<TILES>>(p, b, blockIdx.x, reinterpret_cast<float*>(dynamic_shared));
  }
}

}  // namespace

const char* launch_strip_backward(const Problem& p, int, int sequences, void* stream) {
  return launch_strips(strip_backward_kernel<FEWEST_TILES>, dim3(sequences),
                       Sequence<Shape<FEWEST_TILES>>::BACKWARD_FLOATS, p, stream);
}

}  // namespace rka::cuda
