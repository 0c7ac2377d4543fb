// What both passes of the kernels for long sequences launch first.
#pragma once

#include "long_plan.h"
#include "strip_launch.h"

namespace rka::cuda {

extern __shared__ float4 dynamic_shared[];
RKA_DEVICE float* shared_floats() { return reinterpret_cast<float*>(dynamic_shared); }

// Correlation, prior and factor of the workspace's sequences, where they are needed.
const char* prepare_long(const Problem& p, const Workspace& w, void* stream);

}  // namespace rka::cuda
