// The kernels for long sequences: correlation, prior, factor, attention; one after the other for
// as many sequences at a time as the workspace holds.
#include "launch.h"
#include "long_attention.h"
#include "long_cholesky.h"
#include "long_covariance.h"
#include "long_launch.h"

namespace rka::cuda {
namespace {

__global__ void __launch_bounds__(WARPS* LANES, STRIP_BLOCKS)
    relate_kernel(const __grid_constant__ Problem p, const __grid_constant__ Workspace w) {
  relate(p, w, blockIdx.x, blockIdx.y, shared_floats());
}
__global__ void __launch_bounds__(WARPS* LANES, STRIP_BLOCKS)
    prior_kernel(const __grid_constant__ Problem p, const __grid_constant__ Workspace w) {
  shape_prior(p, w, blockIdx.x, blockIdx.z, blockIdx.y, shared_floats());
}
__global__ void __launch_bounds__(WARPS* LANES, STRIP_BLOCKS)
    factor_kernel(const __grid_constant__ Problem p, const __grid_constant__ Workspace w) {
  factor_squares(p, w, blockIdx.x, shared_floats());
}
__global__ void __launch_bounds__(WARPS* LANES, STRIP_BLOCKS)
    long_forward_kernel(const __grid_constant__ Problem p, const __grid_constant__ Workspace w,
                        int parts) {
  long_forward_block(p, w, blockIdx.x, gridDim.x, parts, shared_floats());
}

}  // namespace

const char* prepare_long(const Problem& p, const Workspace& w, void* stream) {
  const char* error = nullptr;
  const auto launch = [&](auto kernel, dim3 grid, int floats) {
    if (!error) error = launch_strips(kernel, grid, floats, stream, p, w);
  };
  if (!p.needs_covariance()) return error;
  launch(relate_kernel, dim3(w.sequences, w.key_squares), RELATE_FLOATS);
  if (w.priors) launch(prior_kernel, dim3(w.sequences, w.row_squares, w.priors), LONG_FLOATS);
  if (p.mode == Mode::sample) launch(factor_kernel, dim3(w.sequences), FACTOR_FLOATS);
  return error;
}

const char* launch_long_forward(const Problem& p, const Workspace& w, int blocks, int parts,
                                void* stream) {
  const char* error = prepare_long(p, w, stream);
  if (error) return error;
  return launch_strips(long_forward_kernel, dim3(blocks), LONG_FLOATS, stream, p, w, parts);
}

}  // namespace rka::cuda
