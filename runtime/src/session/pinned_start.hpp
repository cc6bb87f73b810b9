// What all prefixes of a bundle begin with: computed once, for all sessions, and kept as long as the bundle is open.
#pragma once

#include <vector>

#include "backends/backend.hpp"
#include "bundle/bundle.hpp"
#include "session/prefix.hpp"

namespace rexit::core {

// The tokens of the prompt program's first pieces, up to the first op that depends on the user, at full depth. Requests only copy
// from it: computed in one of them, it would keep that one past its deadline and others waiting. It lies in host memory, which
// sessions on a GPU can copy from as well, whatever stream each of them has.
class PinnedStart {
 public:
  // Runs all segments, unless there is no such start. Throws REXIT_BACKEND_FAILED.
  PinnedStart(const Bundle& bundle, const BackendFactory& make_backend);
  PinnedStart(const PinnedStart&) = delete;
  PinnedStart& operator=(const PinnedStart&) = delete;

  // Empty if prefixes have no common start, or one that is too short to gain by it.
  static std::vector<std::int32_t> tokens_of(const Bundle& bundle);
  const std::vector<std::int32_t>& tokens() const noexcept { return tokens_; }
  const PackedPrefix& prefix() const noexcept { return prefix_; }
  std::size_t bytes() const noexcept { return memory_.size(); }

 private:
  std::vector<std::int32_t> tokens_;
  PackedPrefix prefix_;
  std::vector<std::byte> memory_;  // what prefix_ points to
};

}  // namespace rexit::core
