// The kernels for short sequences, for up to 56 and up to 64 rows and columns.
#include "launch.h"
#include "strip_attention.h"
#include "strip_launch.h"
#include "strip_plan.h"

namespace rka::cuda {
namespace {

extern __shared__ float4 dynamic_shared[];

template <int TILES>
__global__ void __launch_bounds__(WARPS* LANES, STRIP_BLOCKS)
    strip_forward_kernel(const __grid_constant__ Problem p) {
  strip_forward<Shape<TILES>>(p, blockIdx.x, blockIdx.y, gridDim.y,
                              reinterpret_cast<float*>(dynamic_shared));
}

template <int TILES>
const char* launch(const Problem& p, int parts, void* stream) {
  return launch_strips(strip_forward_kernel<TILES>, dim3(p.batch, parts), Shape<TILES>::FLOATS,
                       stream, p);
}

}  // namespace

const char* launch_strip_forward(const Problem& p, int tiles, int parts, void* stream) {
  return tiles == FEWEST_TILES ? launch<FEWEST_TILES>(p, parts, stream)
                               : launch<MOST_TILES>(p, parts, stream);
}

}  // namespace rka::cuda
