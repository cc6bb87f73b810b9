// The pinned start: the common start of all prefixes of a bundle, computed once for all sessions and kept while the bundle is
// open.
#pragma once

#include <vector>

#include "backends/backend.hpp"
#include "bundle/bundle.hpp"
#include "session/prefix/prefix.hpp"

namespace rexit::core {

// The tokens of the prompt program's leading pieces, up to the first op that depends on the user, at most 4,096, at full depth.
// It is computed at open: in a request it would miss that request's deadline and delay others. It lies in host memory, from which
// sessions on a GPU can copy on their own streams.
class PinnedStart {
 public:
  // Runs all segments if there is a common start. Throws REXIT_BACKEND_FAILED.
  PinnedStart(const Bundle& bundle, const BackendFactory& make_backend);
  PinnedStart(const PinnedStart&) = delete;
  PinnedStart& operator=(const PinnedStart&) = delete;

  // Empty if prefixes have no common start, or too short a start to save time.
  static std::vector<std::int32_t> tokens_of(const Bundle& bundle);
  const std::vector<std::int32_t>& tokens() const noexcept { return tokens_; }
  const PackedPrefix& prefix() const noexcept { return prefix_; }
  std::size_t bytes() const noexcept { return memory_.size(); }

 private:
  std::vector<std::int32_t> tokens_;
  PackedPrefix prefix_;
  std::vector<std::byte> memory_;  // owns the data of prefix_
};

}  // namespace rexit::core
