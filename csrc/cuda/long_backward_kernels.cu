// The backward kernels for long sequences: what forward left is made again, then attention, a head
// to a block, the adjoint of the factor and that of the correlation, a row of squares to a block.
#include "launch.h"
#include "long_attention_backward.h"
#include "long_covariance_backward.h"
#include "long_launch.h"

namespace rka::cuda {
namespace {

__global__ void __launch_bounds__(WARPS* LANES, LONG_BACKWARD_BLOCKS)
    long_backward_kernel(const __grid_constant__ Problem p, const __grid_constant__ Workspace w,
                         const __grid_constant__ Adjoint adjoint) {
  long_backward_block(p, w, adjoint, blockIdx.x, gridDim.x, shared_floats());
}
__global__ void __launch_bounds__(WARPS* LANES)
    add_heads_kernel(const __grid_constant__ Problem p, const __grid_constant__ Workspace w,
                     const __grid_constant__ Adjoint adjoint) {
  add_heads(p, w, adjoint, blockIdx.x, blockIdx.y);
}
__global__ void __launch_bounds__(WARPS* LANES, STRIP_BLOCKS)
    divide_lower_kernel(const __grid_constant__ Problem p, const __grid_constant__ Workspace w,
                        const __grid_constant__ Adjoint adjoint) {
  divide_lower(p, w, adjoint, blockIdx.x, blockIdx.y, shared_floats());
}
__global__ void __launch_bounds__(WARPS* LANES, STRIP_BLOCKS)
    divide_whole_kernel(const __grid_constant__ Problem p, const __grid_constant__ Workspace w,
                        const __grid_constant__ Adjoint adjoint) {
  divide_whole(p, w, adjoint, blockIdx.x, blockIdx.y, shared_floats());
}
__global__ void __launch_bounds__(WARPS* LANES, LONG_BACKWARD_BLOCKS)
    correlation_backward_kernel(const __grid_constant__ Problem p,
                                const __grid_constant__ Workspace w,
                                const __grid_constant__ Adjoint adjoint) {
  correlation_backward(p, w, adjoint, blockIdx.x, blockIdx.y, shared_floats());
}
__global__ void __launch_bounds__(WARPS* LANES)
    add_shares_kernel(const __grid_constant__ Problem p, const __grid_constant__ Workspace w,
                      const __grid_constant__ Adjoint adjoint) {
  add_shares(p, w, adjoint, blockIdx.x);
}

}  // namespace

const char* launch_long_backward(const Problem& p, const Workspace& w, const Adjoint& adjoint,
                                 int blocks, void* stream) {
  const char* error = prepare_long(p, w, stream);
  const auto launch = [&](auto kernel, dim3 grid, int floats) {
    if (!error) error = launch_strips(kernel, grid, floats, stream, p, w, adjoint);
  };
  launch(long_backward_kernel, dim3(blocks), LONG_BACKWARD_FLOATS);
  if (!p.wants_covariance()) return error;
  const dim3 rows(w.sequences, w.key_squares);
  const int triangle = Workspace::index(w.key_squares, 0);
  if (p.heads > 1) launch(add_heads_kernel, dim3(w.sequences, triangle), 0);
  if (p.mode == Mode::sample) {
    launch(divide_lower_kernel, rows, LONG_FLOATS);
    launch(divide_whole_kernel, rows, LONG_FLOATS);
  }
  launch(correlation_backward_kernel, rows, RELATE_FLOATS);
  launch(add_shares_kernel, dim3(w.sequences), 0);
  return error;
}

}  // namespace rka::cuda
