// The kernels for short sequences, for up to 56 and up to 64 rows and columns.
#include <cuda_runtime.h>

#include "launch.h"
#include "strip_forward.h"
#include "strip_plan.h"

namespace rka::cuda {
namespace {

extern __shared__ float4 dynamic_shared[];

template <int TILES>
__global__ void __launch_bounds__(WARPS * LANES, STRIP_BLOCKS)
    strip_forward_kernel(const __grid_constant__ Problem p) {
  strip_forward<Shape<TILES>>(
      p, blockIdx.x, blockIdx.y, gridDim.y, reinterpret_cast<float*>(dynamic_shared));
}

template <int TILES>
const char* launch(void (*kernel)(Problem), const Problem& p, int parts, void* stream) {
  const int bytes = Sequence<Shape<TILES>>::FLOATS * int(sizeof(float));
  cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (error == cudaSuccess)
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, 100);
  if (error == cudaSuccess) {
    kernel<<<dim3(p.batch, parts), WARPS * LANES, bytes, static_cast<cudaStream_t>(stream)>>>(p);
    error = cudaGetLastError();
  }
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace

const char* launch_strip_forward(const Problem& p, int tiles, int parts, void* stream) {
  return tiles == FEWEST_TILES
             ? launch<FEWEST_TILES>(strip_forward_kernel<FEWEST_TILES>, p, parts, stream)
             : launch<MOST_TILES>(strip_forward_kernel<MOST_TILES>, p, parts, stream);
}

}  // namespace rka::cuda
