// The threads of one block on the host, as coroutines of one system thread: what ../../cuda/warp.h
// asks for where there is no GPU.
#pragma once

#include <cstdint>
#include <functional>

namespace rka::cuda::host {

// Runs body() once for each of `threads` threads. A warp goes on until all of its lanes wait for
// the block or have ended; in which order the warps and, between two meetings, the lanes of a warp
// come is decided by `order`: 0 forwards, 1 backwards, otherwise shuffled anew each time. A result
// that depends on it has a race. Copies in the background happen as late as they may, or at once if
// `order` is odd.
// nullptr, or what went wrong: threads that wait for different things.
const char* run_block(int threads, int64_t order, const std::function<void()>& body);

}  // namespace rka::cuda::host
