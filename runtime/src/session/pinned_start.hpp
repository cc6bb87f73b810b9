// What all prefixes of a bundle begin with: computed once, for all sessions, and kept as long as the bundle is open.
#pragma once

#include <atomic>
#include <functional>
#include <mutex>
#include <vector>

#include "bundle/bundle.hpp"
#include "session/prefix.hpp"

namespace rexit::core {

// The tokens of the prompt program's first pieces, up to the first op that depends on the user. They lie in host memory, which
// sessions on a GPU can copy from as well, whatever stream each of them has.
class PinnedStart {
 public:
  explicit PinnedStart(const Bundle& bundle);

  // Empty if prefixes have no common start, or one that is too short to gain by it.
  const std::vector<std::int32_t>& tokens() const noexcept { return tokens_; }

  struct Made {
    PackedPrefix prefix;
    std::vector<std::byte> memory;  // what `prefix` points to
  };
  // The start at full depth, made by the first call. Calls at the same time wait for it; later ones take no lock. If `make`
  // throws, so does that call, and the next one makes it.
  const PackedPrefix& get(const std::function<Made()>& make) const;
  // 0 as long as it has not been made.
  std::size_t bytes() const noexcept;

 private:
  std::vector<std::int32_t> tokens_;
  // Not std::call_once, which does not survive exceptions on every platform's C++ library.
  mutable std::mutex mutex_;
  mutable Made made_;
  mutable std::atomic<const Made*> ready_{nullptr};
};

}  // namespace rexit::core
