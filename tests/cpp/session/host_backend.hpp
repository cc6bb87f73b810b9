// A backend whose memory is the host's, and what tests do with such: open a bundle over it, and run a slate.
#pragma once

#include <chrono>
#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <new>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "session/session.hpp"

class HostBackend : public rexit::core::Backend {
 public:
  void* allocate(std::size_t bytes) const override { return ::operator new(bytes); }
  void release(void* memory) const noexcept override { ::operator delete(memory); }
  void copy(void* to, const void* from, std::size_t bytes) const override {
    if (bytes != 0) std::memmove(to, from, bytes);
  }
};

// The n-th candidate that a segment sees gets log-odds n. How long passes take and what happens in them is a test's to say.
class ScriptedBackend final : public HostBackend {
 public:
  explicit ScriptedBackend(const rexit::core::Bundle& bundle) : bundle_(bundle) {}
  void run(std::size_t segment, const rexit::core::Pass& pass) const override {
    if (pass.hidden_out != nullptr) std::memset(pass.hidden_out, 0, pass.tokens * bundle_.model().hidden_size * sizeof(float));
    ++passes;
    std::this_thread::sleep_for(pass.logits == nullptr ? prefix_time : slate_time);
    if (during) during();
    if (pass.logits == nullptr) return;
    if (segment != last_segment) row_count = 0;
    last_segment = segment;
    for (std::size_t n = 0; n < pass.rows; ++n) {
      pass.logits[2 * n] = 0;
      pass.logits[2 * n + 1] = ++row_count == fails_after ? NAN : static_cast<float>(row_count);
    }
  }

  static inline std::chrono::milliseconds prefix_time{0}, slate_time{0};
  static inline std::size_t fails_after = 0, passes = 0;  // fails_after 0: never
  static inline std::function<void()> during;

 private:
  const rexit::core::Bundle& bundle_;
  mutable std::size_t row_count = 0, last_segment = 0;
};

// A bundle whose segments run in a `Backend`, and exit zero in what `zero` makes.
template <class Backend, class... Zero>
std::shared_ptr<const rexit::core::LoadedBundle> load_over(const std::string& path, Zero... zero) {
  const auto make_factory = [](const rexit::core::Bundle& bundle) {
    return rexit::core::BackendFactory([backend = std::make_shared<const Backend>(bundle)] { return backend; });
  };
  return std::make_shared<const rexit::core::LoadedBundle>(path, nullptr, make_factory, std::move(zero)...);
}

// A slate without exit zero, in one call.
inline const std::vector<rexit::core::Answer>& run_slate(rexit::core::Slate& slate, const rexit::core::Prompt& prompt,
                                                         rexit::core::PrefixCache& prefix, const rexit::core::StopRule& rule,
                                                         const rexit::core::Deadline& deadline, rexit::core::SlateStats& stats) {
  slate.begin(prompt.candidates(), nullptr, rule);
  return slate.run(prompt, prefix, rule, deadline, stats);
}
