#include "backends/tensorrt/graph_cache.hpp"

#include <algorithm>

namespace rexit::core {
namespace {

// Per session. Contexts and graphs each get half of the bytes. Their memory is the change of the GPU's free memory around their
// creation, at least min_bytes: what other processes do meanwhile makes it an estimate.
constexpr std::size_t max_bytes = std::size_t{128} << 20, min_bytes = std::size_t{64} << 10;
constexpr std::size_t max_graphs = 64, max_met = 1024;

std::array<std::size_t, 4> key_of(const PassSizes& sizes) { return {sizes.tokens, sizes.prefix, sizes.rows, sizes.vectors}; }

std::size_t free_bytes() {
  std::size_t free = 0, total = 0;
  cuda::check(cuda::api().cudaMemGetInfo(&free, &total), "asking for free memory");
  return free;
}

std::size_t bytes_since(std::size_t free_before) {
  const std::size_t now = free_bytes();
  return std::max(min_bytes, free_before > now ? free_before - now : 0);
}

}  // namespace

void GraphCache::create_contexts(const std::vector<LoadedEngine>& engines, const PassBuffers& buffers,
                                 const cuda::Stream& stream) {
  slots_.clear();
  slots_.resize(engines.size());
  std::size_t bytes = 0;
  for (std::size_t round = 0; round < std::max<std::size_t>(1, max_graphs / engines.size()); ++round)
    for (std::size_t k = 0; k < engines.size(); ++k) {
      if (round != 0 && bytes >= max_bytes / 2) return;
      const std::size_t before = free_bytes();
      slots_[k].emplace_back().context = make_context(engines[k], engines[k].plan.profiles.size() - 1, buffers, stream);
      bytes += bytes_since(before);
    }
}

void GraphCache::set_memory(const PassBuffers& buffers) noexcept {
  for (std::deque<Slot>& slots : slots_)
    for (Slot& slot : slots)
      slot.context->setDeviceMemoryV2(buffers.working.data(), static_cast<std::int64_t>(buffers.working.bytes()));
}

GraphCache::Slot* GraphCache::find(std::size_t segment, const PassSizes& sizes) noexcept {
  for (Slot& slot : slots_[segment])
    if (slot.graph.ready() && slot.sizes == key_of(sizes)) {
      slot.last_use = ++uses_;
      return &slot;
    }
  return nullptr;
}

bool GraphCache::is_repeated(std::size_t segment, const PassSizes& sizes) {
  if (met_.size() >= max_met) met_.clear();
  return !met_.emplace(segment, key_of(sizes)).second;
}

GraphCache::Slot& GraphCache::take_over_slot(std::size_t segment, const PassSizes& sizes) {
  std::deque<Slot>& slots = slots_[segment];
  const auto less_recent = [](const Slot& a, const Slot& b) { return a.last_use < b.last_use; };
  Slot& slot = *std::min_element(slots.begin(), slots.end(), less_recent);
  slot.graph.reset();
  slot.graph_bytes = 0;
  slot.sizes = key_of(sizes);
  slot.last_use = ++uses_;
  return slot;
}

void GraphCache::begin_capture() { free_before_ = free_bytes(); }

void GraphCache::end_capture(Slot& slot) {
  slot.graph_bytes = bytes_since(free_before_);
  while (true) {
    std::size_t bytes = 0;
    Slot* oldest = nullptr;
    for (std::deque<Slot>& slots : slots_)
      for (Slot& other : slots) {
        bytes += other.graph_bytes;
        if (&other != &slot && other.graph.ready() && (oldest == nullptr || other.last_use < oldest->last_use)) oldest = &other;
      }
    if (bytes <= max_bytes / 2 || oldest == nullptr) return;
    oldest->graph.reset();
    oldest->graph_bytes = 0;
    oldest->last_use = 0;
  }
}

void GraphCache::clear_graphs() noexcept {
  for (std::deque<Slot>& slots : slots_)
    for (Slot& slot : slots) {
      slot.graph.reset();
      slot.graph_bytes = 0;
      slot.last_use = 0;
    }
}

void GraphCache::clear() noexcept {
  slots_.clear();
  met_.clear();
}

}  // namespace rexit::core
