// The backward kernels for short sequences, for up to 56 and up to 64 rows and columns.
#include "launch.h"
#include "strip_attention_backward.h"
#include "strip_launch.h"
#include "strip_plan.h"

namespace rka::cuda {
namespace {

extern __shared__ float4 dynamic_shared[];

template <int TILES>
__global__ void __launch_bounds__(WARPS* LANES, strip_blocks(TILES))
    strip_relations_kernel(const __grid_constant__ Problem p) {
  strip_relations<Shape<TILES>>(p, p.first + blockIdx.x, reinterpret_cast<float*>(dynamic_shared));
}

template <int TILES>
__global__ void __launch_bounds__(WARPS* LANES, strip_backward_blocks(TILES))
    strip_backward_kernel(const __grid_constant__ Problem p) {
#pragma unroll 1
  for (int b = p.first + blockIdx.x; b < p.last; b += gridDim.x) {
    strip_backward<Shape<TILES>>(p, b, blockIdx.x, reinterpret_cast<float*>(dynamic_shared));
  }
}

template <int TILES>
__global__ void __launch_bounds__(WARPS* LANES, strip_blocks(TILES))
    strip_covariance_backward_kernel(const __grid_constant__ Problem p) {
  strip_covariance_backward<Shape<TILES>>(p, p.first + blockIdx.x,
                                          reinterpret_cast<float*>(dynamic_shared));
}

template <int TILES>
const char* launch(const Problem& p, int blocks, void* stream) {
  const int floats = Shape<TILES>::BACKWARD_FLOATS;
  const dim3 sequences(p.last - p.first);
  const char* error = nullptr;
  if (p.needs_covariance()) {
    error =
        launch_strips(strip_relations_kernel<TILES>, sequences, Shape<TILES>::FLOATS, stream, p);
  }
  if (!error) error = launch_strips(strip_backward_kernel<TILES>, dim3(blocks), floats, stream, p);
  if (!error && p.wants_covariance()) {
    error = launch_strips(strip_covariance_backward_kernel<TILES>, sequences,
                          Shape<TILES>::COVARIANCE_FLOATS, stream, p);
  }
  return error;
}

}  // namespace

const char* launch_strip_backward(const Problem& p, int tiles, int blocks, void* stream) {
  return tiles == FEWEST_TILES ? launch<FEWEST_TILES>(p, blocks, stream)
                               : launch<MOST_TILES>(p, blocks, stream);
}

}  // namespace rka::cuda
