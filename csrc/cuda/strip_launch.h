// One launch of a kernel for short sequences, with its shared memory.
#pragma once

#include <cuda_runtime.h>

#include "problem.h"
#include "strip.h"

namespace rka::cuda {

// What went wrong, or null.
inline const char* launch_strips(void (*kernel)(Problem), dim3 grid, int floats, const Problem& p,
                                 void* stream) {
  const int bytes = floats * int(sizeof(float));
  cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (error == cudaSuccess)
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, 100);
  if (error == cudaSuccess) {
    kernel<<<grid, WARPS * LANES, bytes, static_cast<cudaStream_t>(stream)>>>(p);
    error = cudaGetLastError();
  }
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace rka::cuda
