// CUDA graphs of a session's padded passes, by size.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <set>
#include <utility>
#include <vector>

#include "backends/tensorrt/bound_pass.hpp"
#include "backends/tensorrt/buckets.hpp"

namespace rexit::core {

// A context must not change while a graph captured from it exists, so each graph has its own. They are created with the session,
// for the last profile, as many as fit into a bound in bytes. A graph for a new size takes over the context of the least recently
// used one.
class GraphCache {
 public:
  struct Slot {
    ExecutionContext context;
    cuda::Graph graph;
    std::array<std::size_t, 4> sizes{};  // of `graph`
    std::uint64_t last_use = 0;
    std::size_t graph_bytes = 0;
  };

  // Creates the contexts. Throws REXIT_BACKEND_FAILED.
  void create_contexts(const std::vector<LoadedEngine>& engines, const PassBuffers& buffers, const cuda::Stream& stream);
  // Assigns other working memory to the contexts. They have no graphs then.
  void set_memory(const PassBuffers& buffers) noexcept;

  // The slot of the segment's graph of these sizes; null if there is none.
  Slot* find(std::size_t segment, const PassSizes& sizes) noexcept;
  // Whether the segment has run these sizes before; remembers them.
  bool is_repeated(std::size_t segment, const PassSizes& sizes);
  // A slot without a graph. No graph of the session may be running.
  Slot& take_over_slot(std::size_t segment, const PassSizes& sizes);
  // Measures a graph's memory: call it before and after a capture. Drops graphs, the least recently used first, while all
  // together exceed the bound.
  void begin_capture();
  void end_capture(Slot& slot);

  void clear_graphs() noexcept;
  void clear() noexcept;  // contexts too

 private:
  std::vector<std::deque<Slot>> slots_;                               // [segments]
  std::set<std::pair<std::size_t, std::array<std::size_t, 4>>> met_;  // sizes that ran once
  std::uint64_t uses_ = 0;
  std::size_t free_before_ = 0;
};

}  // namespace rexit::core
