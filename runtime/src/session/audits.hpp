// Draws slates that a policy has stopped, and keeps one of them until it has been scored again at full depth.
#pragma once

#include <cstdint>
#include <vector>

#include "prompt/prompt.hpp"
#include "rexit/rexit.h"
#include "session/slate/slate.hpp"

namespace rexit::core {

// Which slates a session draws.
struct AuditOptions {
  double share = 0;        // from 0, which is none, to 1
  std::uint64_t seed = 0;  // 0: one of the system's
};

// Whether draw `number` takes its slate. Does not depend on earlier draws.
bool is_drawn(std::uint64_t seed, std::uint64_t number, double share) noexcept;

// A slate with its answers, in the order of the request, and with those at full depth.
struct AuditedSlate {
  Prompt prompt;
  std::vector<float> zero;           // exit zero's log-odds; empty: there is none
  std::vector<std::uint32_t> exits;  // [candidates], as the next two
  std::vector<float> policy_c, full_c;

  std::size_t memory() const noexcept {
    return prompt.memory() + exits.capacity() * sizeof(std::uint32_t) +
           (zero.capacity() + policy_c.capacity() + full_c.capacity()) * sizeof(float);
  }
};

struct AuditCounts {
  std::uint64_t drawn = 0, audited = 0, skipped = 0;
};

class Audits {
 public:
  explicit Audits(const AuditOptions& options);

  bool enabled() const noexcept { return share_ > 0; }
  // Whether the next draw() needs the whole prompt.
  bool copies_next() const noexcept { return !waits_ && is_drawn(seed_, number_, share_); }
  // Where the next slate's prompt may be assembled, if none waits.
  Prompt& next_prompt() noexcept { return slate_.prompt; }
  // Draws a slate by chance. Copies it if it is drawn and no other waits. Allocates nothing if an earlier slate was as
  // large. `zero`: exit zero's log-odds. `problem`: why the slate is skipped if it is drawn; REXIT_DRAWN: it is not.
  rexit_draw draw(const Prompt& prompt, const std::vector<Answer>& answers, const std::vector<float>& zero = {},
                  rexit_draw problem = REXIT_DRAWN) noexcept;
  // The slate that waits; null: none.
  const AuditedSlate* waiting() const noexcept { return waits_ ? &slate_ : nullptr; }
  // Completes the waiting slate with the answers at full depth. The slate is valid until the next draw().
  const AuditedSlate& finish(const std::vector<Answer>& answers);
  // Drops the waiting slate without an audit.
  void skip() noexcept;
  // Releases the memory, and skips a slate that waits.
  void trim() noexcept;
  const AuditCounts& counts() const noexcept { return counts_; }
  std::size_t memory() const noexcept { return slate_.memory(); }

 private:
  rexit_draw keep(const Prompt& prompt, const std::vector<Answer>& answers, const std::vector<float>& zero);

  double share_;
  std::uint64_t seed_;
  std::uint64_t number_ = 0;  // the next draw's
  AuditedSlate slate_;
  bool waits_ = false;
  AuditCounts counts_;
};

}  // namespace rexit::core
