// One launch of a kernel of four warps a block, with its shared memory.
#pragma once

#include <cuda_runtime.h>

#include "problem.h"
#include "strip.h"

namespace rka::cuda {

// What went wrong, or null.
template <class... T>
const char* launch_strips(void (*kernel)(T...), dim3 grid, int floats, void* stream,
                          const T&... arguments) {
  const int bytes = floats * int(sizeof(float));
  cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (error == cudaSuccess)
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, 100);
  if (error == cudaSuccess) {
    kernel<<<grid, WARPS * LANES, bytes, static_cast<cudaStream_t>(stream)>>>(arguments...);
    error = cudaGetLastError();
  }
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace rka::cuda
