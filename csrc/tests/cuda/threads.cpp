#include "threads.h"

#include <ucontext.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <deque>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

namespace rka::cuda::host {
namespace {

constexpr int LANES = 32, WORDS = 8;
constexpr size_t STACK = 256 * 1024;

enum class State { ready, waits_for_warp, waits_for_block, ended };

struct Copy {
  float* to;
  const float* from;
  int count;
  bool exists;
};

struct Thread {
  State state = State::ready;
  ucontext_t context;
  std::vector<std::vector<Copy>> groups;  // of copies, oldest first
  std::vector<Copy> open;                 // the group that has not ended
};

struct Block {
  std::deque<Thread> threads;
  bool early;  // whether copies happen at once
  // Words of every lane; two sets, so that the next exchange does not overwrite what is being read.
  std::vector<std::array<uint32_t, 2 * LANES * WORDS>> words;
  std::vector<int> set;  // of each warp
  int current = 0;
  ucontext_t scheduler;
  const std::function<void()>* body;
};

Block* block = nullptr;
std::vector<std::unique_ptr<char[]>> stacks;  // kept from block to block

void copy(const Copy& c) {
  for (int k = 0; k < c.count; ++k) c.to[k] = c.exists ? c.from[k] : 0.0f;
}

void enter() {
  (*block->body)();
  block->threads[block->current].state = State::ended;
}

void wait(State state) {
  Thread& t = block->threads[block->current];
  t.state = state;
  swapcontext(&t.context, &block->scheduler);
}

std::vector<int> sequence(int count, int64_t order, std::mt19937_64& random) {
  std::vector<int> result(count);
  std::iota(result.begin(), result.end(), 0);
  if (order == 1) std::reverse(result.begin(), result.end());
  if (order > 1) std::shuffle(result.begin(), result.end(), random);
  return result;
}

// Until all lanes wait for the block or have ended; false if they disagree.
bool run_warp(int warp, int64_t order, std::mt19937_64& random) {
  while (true) {
    int meeting = 0;
    for (const int lane : sequence(LANES, order, random)) {
      block->current = LANES * warp + lane;
      Thread& t = block->threads[block->current];
      if (t.state == State::ready) swapcontext(&block->scheduler, &t.context);
      meeting += t.state == State::waits_for_warp;
    }
    if (meeting == 0) return true;
    if (meeting < LANES) return false;
    block->set[warp] ^= 1;
    for (int lane = 0; lane < LANES; ++lane) {
      block->threads[LANES * warp + lane].state = State::ready;
    }
  }
}

}  // namespace

const char* run_block(int threads, int64_t order, const std::function<void()>& body) {
  Block b;
  b.threads.resize(threads), b.words.resize(threads / LANES), b.set.resize(threads / LANES);
  b.body = &body, b.early = order % 2 == 1;
  block = &b;
  while (int(stacks.size()) < threads) stacks.push_back(std::make_unique<char[]>(STACK));
  for (int i = 0; i < threads; ++i) {
    Thread& t = b.threads[i];
    getcontext(&t.context);
    t.context.uc_stack.ss_sp = stacks[i].get(), t.context.uc_stack.ss_size = STACK;
    t.context.uc_link = &b.scheduler;
    makecontext(&t.context, enter, 0);
  }
  std::mt19937_64 random(order);
  const auto count = [&](State state) {
    return std::count_if(b.threads.begin(), b.threads.end(),
                         [&](const Thread& t) { return t.state == state; });
  };
  while (count(State::ended) < threads) {
    for (const int warp : sequence(threads / LANES, order, random)) {
      if (!run_warp(warp, order, random)) return "lanes of a warp wait for different things";
    }
    if (count(State::ended) == threads) break;
    if (count(State::waits_for_block) < threads) return "a thread ended while others wait for it";
    for (Thread& t : b.threads) t.state = State::ready;
  }
  for (const Thread& t : b.threads) {
    if (!t.open.empty()) return "a copy was started in no group";
    for (const auto& group : t.groups) {
      if (!group.empty()) return "a copy was started and not waited for";
    }
  }
  return nullptr;
}

int thread() { return block->current; }

void sync_block() { wait(State::waits_for_block); }

const uint32_t* exchange(const uint32_t* words, int count) {
  const int warp = block->current / LANES, lane = block->current % LANES;
  uint32_t* all = block->words[warp].data() + block->set[warp] * LANES * WORDS;
  if (count > 0) std::memcpy(all + lane * WORDS, words, count * sizeof(uint32_t));
  wait(State::waits_for_warp);
  return all;
}

void copy_later(float* to, const float* from, int count, bool exists) {
  const uintptr_t size = count * sizeof(float);
  if ((reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from)) % size) __builtin_trap();
  Copy c{to, from, count, exists};
  if (block->early) copy(c), c.count = 0;  // which is still to be waited for
  block->threads[block->current].open.push_back(c);
}

void end_of_copies() {
  Thread& t = block->threads[block->current];
  t.groups.push_back(std::move(t.open));
  t.open.clear();
}

void wait_for_copies(int pending) {
  auto& groups = block->threads[block->current].groups;
  const int done = std::max(0, int(groups.size()) - pending);
  for (int i = 0; i < done; ++i) {
    for (const Copy& c : groups[i]) copy(c);
  }
  groups.erase(groups.begin(), groups.begin() + done);
}

}  // namespace rka::cuda::host
