// A slate over a backend that only passes tokens on.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

#include "bundles.hpp"
#include "session/host_backend.hpp"

// Hidden states carry the token they came from, and `head` makes log-odds of it. Records its passes and its memory.
class TokenBackend final : public rexit::core::Backend {
 public:
  explicit TokenBackend(const rexit::core::Bundle& bundle) : bundle_(bundle) {}

  void run(std::size_t segment, const rexit::core::Pass& pass) const override {
    if (before) before(pass);
    const std::size_t width = bundle_.model().hidden_size;
    std::vector<float> inputs;
    for (std::size_t t = 0; t < pass.tokens; ++t)
      inputs.push_back(segment == 0 ? static_cast<float>(pass.token_ids[t])
                                    : static_cast<const float*>(pass.hidden_in)[t * width]);
    if (pass.hidden_out != nullptr)
      for (std::size_t t = 0; t < pass.tokens; ++t)
        for (std::size_t h = 0; h < width; ++h) static_cast<float*>(pass.hidden_out)[t * width + h] = inputs[t];
    if (pass.logits == nullptr) return;  // a prefix
    for (std::size_t n = 0; n < pass.rows; ++n) {
      const float last = inputs[static_cast<std::size_t>(pass.row_index[n])];
      pass.logits[2 * n] = 0;
      pass.logits[2 * n + 1] = head(segment, last) + noise * static_cast<float>(n);
    }
    const std::lock_guard<std::mutex> lock(mutex_);
    passes.push_back({segment,
                      inputs,
                      {pass.groups, pass.groups + pass.tokens},
                      {pass.positions, pass.positions + pass.tokens},
                      pass.side_by_side,
                      std::this_thread::get_id()});
    if (after) after(segment);
  }
  std::size_t concurrency() const noexcept override { return threads; }
  void* allocate(std::size_t bytes) const override {
    const std::lock_guard<std::mutex> lock(mutex_);
    void* memory = ::operator new(bytes);
    blocks[memory] = bytes;
    allocated += bytes;
    peak = std::max(peak, allocated);
    return memory;
  }
  void release(void* memory) const noexcept override {
    if (memory == nullptr) return;
    const std::lock_guard<std::mutex> lock(mutex_);
    allocated -= blocks[memory];
    ::operator delete(memory);
  }
  void copy(void* to, const void* from, std::size_t bytes) const override {
    const std::lock_guard<std::mutex> lock(mutex_);
    copied.push_back(bytes);
    std::memmove(to, from, bytes);
  }

  std::function<float(std::size_t segment, float token)> head = [](std::size_t, float token) { return token; };
  float noise = 0;  // added to the log-odds, times the candidate's place in the pass
  mutable std::vector<std::size_t> copied;
  mutable std::map<void*, std::size_t> blocks;
  mutable std::size_t allocated = 0, peak = 0;  // bytes
  struct Seen {
    std::size_t segment;
    std::vector<float> tokens;
    std::vector<std::int64_t> groups, positions;
    std::size_t side_by_side;
    std::thread::id thread;
  };
  mutable std::vector<Seen> passes;
  std::function<void(const rexit::core::Pass&)> before;
  std::function<void(std::size_t)> after;
  std::size_t threads = 1;  // that run passes at a time

 private:
  mutable std::mutex mutex_;
  const rexit::core::Bundle& bundle_;
};

class SlateFixture : public testing::Test {
 protected:
  rexit::core::Bundle bundle{sound_bundle(), nullptr};  // passes take 24 tokens
  TokenBackend backend{bundle};
  rexit::core::PrefixCache prefix{bundle, backend, 1u << 20};
  rexit::core::Slate slate{bundle, backend};
  rexit::core::SlateStats stats;
};
