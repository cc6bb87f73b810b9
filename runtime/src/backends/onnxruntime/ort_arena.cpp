#include "backends/onnxruntime/ort_arena.hpp"

#include <algorithm>
#include <iterator>
#include <new>

namespace rexit::core {
namespace {

constexpr std::size_t alignment = 64, granule = 256;
constexpr std::uint32_t reserve_version = 18;  // of an OrtAllocator whose last function is Reserve

// Precedes each block.
struct alignas(alignment) BlockHeader {
  void* memory;  // as returned by operator new
  std::size_t bytes;
  bool reserved;
};

BlockHeader& header_of(void* block) { return static_cast<BlockHeader*>(block)[-1]; }
void release(void* block) noexcept { ::operator delete(header_of(block).memory, std::align_val_t(alignment)); }

}  // namespace

OrtArena::OrtArena() : OrtAllocator{}, info_(Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeDefault)) {
  version = reserve_version;
  Alloc = [](OrtAllocator* self, std::size_t bytes) { return static_cast<OrtArena*>(self)->allocate(bytes); };
  Reserve = [](OrtAllocator* self, std::size_t bytes) { return static_cast<OrtArena*>(self)->reserve(bytes); };
  Free = [](OrtAllocator* self, void* memory) { static_cast<OrtArena*>(self)->free(memory); };
  Info = [](const OrtAllocator* self) { return static_cast<const OrtMemoryInfo*>(static_cast<const OrtArena*>(self)->info_); };
}

// Throws std::bad_alloc, which passes through ONNX Runtime as what its own arena throws does; it would write to a null pointer.
void* OrtArena::allocate(std::size_t bytes) {
  if (bytes == 0 || bytes > SIZE_MAX - granule) return nullptr;
  bytes = (bytes + granule - 1) / granule * granule;
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = free_.lower_bound(bytes);
  // A block more than twice as large would be a waste: prompts differ in length, and short ones would occupy long ones' blocks.
  if (found == free_.end() || found->first / 2 > bytes) {
    make_room(bytes);
    void* block = take(bytes, false);
    use(bytes);
    return block;
  }
  use(found->first);
  void* block = found->second;
  free_.erase(found);
  return block;
}

void OrtArena::use(std::size_t bytes) noexcept {
  in_use_ += bytes;
  peak_in_use_ = std::max(peak_in_use_, in_use_);
}

// Before a new block is allocated. Of the free blocks, the next smaller one is released first, since it was most likely for the
// same tensor of a shorter prompt; then the largest.
void OrtArena::make_room(std::size_t bytes) noexcept {
  const std::size_t most = std::max(peak_in_use_, in_use_ + bytes);
  while (!free_.empty() && held_.runs + bytes > most + most / 2) {
    const auto larger = free_.lower_bound(bytes);
    give_back(std::prev(larger != free_.begin() ? larger : free_.end()));
  }
}

void OrtArena::give_back(std::multimap<std::size_t, void*>::iterator block) noexcept {
  held_.runs -= block->first;
  release(block->second);
  free_.erase(block);
}

void* OrtArena::reserve(std::size_t bytes) {
  if (bytes == 0) return nullptr;
  const std::lock_guard<std::mutex> lock(mutex_);
  return take(bytes, true);
}

void* OrtArena::take(std::size_t bytes, bool reserved) {
  // Large blocks would each begin at the start of a page, and an operator's inputs and outputs would compete for the same cache
  // lines.
  constexpr std::size_t page = 4096, step = 5 * alignment;
  const std::size_t shift = sizeof(BlockHeader) + (bytes < page ? 0 : blocks_++ * step % page);
  if (bytes > SIZE_MAX - shift) throw std::bad_alloc();
  void* memory = ::operator new(bytes + shift, std::align_val_t(alignment));
  void* block = static_cast<std::byte*>(memory) + shift;
  new (static_cast<BlockHeader*>(block) - 1) BlockHeader{memory, bytes, reserved};
  (reserved ? held_.weights : held_.runs) += bytes;
  return block;
}

void OrtArena::free(void* block) noexcept try {
  if (block == nullptr) return;
  const BlockHeader& header = header_of(block);
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!header.reserved) {
    in_use_ -= header.bytes;
    free_.emplace(header.bytes, block);
    return;
  }
  held_.weights -= header.bytes;
  release(block);
} catch (...) {  // out of memory: the block cannot be recorded and is lost
}

OrtArena::Held OrtArena::held() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return held_;
}

void OrtArena::trim() {
  const std::lock_guard<std::mutex> lock(mutex_);
  while (!free_.empty()) give_back(free_.begin());
  peak_in_use_ = in_use_;
}

}  // namespace rexit::core
