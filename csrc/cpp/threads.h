// Sequences over threads, each thread with memory of its own.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

namespace rka {

// A thread's scratch memory. Kept from call to call, since fresh pages cost more than using them,
// unless it is unusually large.
class Scratch {
 public:
  void* reserve(size_t bytes) {
    if (bytes > size_) {
      memory_.reset(std::aligned_alloc(64, (bytes + 63) / 64 * 64));
      size_ = memory_ ? bytes : 0;
      if (!memory_) throw std::bad_alloc();
    }
    return memory_.get();
  }
  void release() {
    if (size_ <= KEPT) return;
    memory_.reset();
    size_ = 0;
  }

 private:
  static constexpr size_t KEPT = 8 << 20;
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
  std::unique_ptr<void, Free> memory_;
  size_t size_ = 0;
};

// Runs f(sequence, scratch) for every sequence. A thread takes the next one when it is ready:
// sequences differ in length, and none writes what another owns, so the result is the same.
template <class F>
void for_each_sequence(int64_t batch, size_t bytes, const F& f) {
  const int64_t threads = torch::stable::get_num_threads();
  std::atomic<int64_t> next{0};
  torch::stable::parallel_for(0, threads < batch ? threads : batch, 1, [&](int64_t, int64_t) {
    thread_local Scratch scratch;
    void* memory = scratch.reserve(bytes);
    for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < batch;) f(i, memory);
    scratch.release();
  });
}

}  // namespace rka
