// The two kernels, each for a factor in shared memory and in global memory.
#include <cuda_runtime.h>

#include "attention_backward.h"
#include "launch.h"

namespace rka::cuda {

Device describe_device(int index) {
  int shared = 0, multiprocessors = 0, capability = 0;
  cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, index);
  cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, index);
  cudaDeviceGetAttribute(&capability, cudaDevAttrComputeCapabilityMajor, index);
  return {shared, multiprocessors, capability >= 8};
}

namespace {

extern __shared__ float4 dynamic_shared[];

template <bool IN_SHARED>
__global__ void __launch_bounds__(THREADS, BLOCKS)
    forward_kernel(const __grid_constant__ Problem p) {
  const int64_t scratch = int64_t(blockIdx.x) * gridDim.y + blockIdx.y;
  for (int b = blockIdx.x; b < p.batch; b += gridDim.x) {
    forward_block(DeviceBlock<IN_SHARED>{}, p, b, scratch, blockIdx.y, gridDim.y,
                  reinterpret_cast<float*>(dynamic_shared));
  }
}

template <bool IN_SHARED>
__global__ void __launch_bounds__(THREADS, BLOCKS)
    backward_kernel(const __grid_constant__ Problem p) {
  for (int b = blockIdx.x; b < p.batch; b += gridDim.x) {
    backward_block(DeviceBlock<IN_SHARED>{}, p, b, blockIdx.x,
                   reinterpret_cast<float*>(dynamic_shared));
  }
}

const char* launch(void (*kernel)(Problem), const Problem& p, int sequences, int parts,
                   void* stream) {
  const int bytes = int(p.layout.shared_size() * sizeof(float));
  int device = 0;
  cudaError_t error = cudaGetDevice(&device);
  // The device's limit and not this call's size: a call of another thread may come in between.
  if (error == cudaSuccess)
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 int(describe_device(device).shared_limit));
  if (error == cudaSuccess) {
    kernel<<<dim3(sequences, parts), THREADS, bytes, static_cast<cudaStream_t>(stream)>>>(p);
    error = cudaGetLastError();
  }
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace

const char* launch_forward(const Problem& p, int sequences, int parts, void* stream) {
  const bool shared = p.layout.factor_in_shared;
  return launch(shared ? forward_kernel<true> : forward_kernel<false>, p, sequences, parts, stream);
}

const char* launch_backward(const Problem& p, int sequences, void* stream) {
  const bool shared = p.layout.factor_in_shared;
  return launch(shared ? backward_kernel<true> : backward_kernel<false>, p, sequences, 1, stream);
}

}  // namespace rka::cuda
