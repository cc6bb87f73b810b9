#include "backends/onnxruntime/ort_arena.hpp"

#include <algorithm>
#include <iterator>
#include <new>

namespace rexit::core {
namespace {

constexpr std::size_t alignment = 64, granule = 256;

// Stands before each block.
struct alignas(alignment) Head {
  void* memory;  // as it came from operator new
  std::size_t bytes;
  bool reserved;
};

Head& head_of(void* block) { return static_cast<Head*>(block)[-1]; }
void release(void* block) noexcept { ::operator delete(head_of(block).memory, std::align_val_t(alignment)); }

}  // namespace

OrtArena::OrtArena() : OrtAllocator{}, info_(Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeDefault)) {
  version = ORT_API_VERSION;
  Alloc = [](OrtAllocator* self, std::size_t bytes) { return static_cast<OrtArena*>(self)->allocate(bytes); };
  Reserve = [](OrtAllocator* self, std::size_t bytes) { return static_cast<OrtArena*>(self)->reserve(bytes); };
  Free = [](OrtAllocator* self, void* memory) { static_cast<OrtArena*>(self)->free(memory); };
  Info = [](const OrtAllocator* self) { return static_cast<const OrtMemoryInfo*>(static_cast<const OrtArena*>(self)->info_); };
}

// std::bad_alloc passes through ONNX Runtime as what its own arena throws does; a null pointer it would write to.
void* OrtArena::allocate(std::size_t bytes) {
  if (bytes == 0 || bytes > SIZE_MAX - granule) return nullptr;
  bytes = (bytes + granule - 1) / granule * granule;
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = waiting_.lower_bound(bytes);
  // A block of twice the size is no use of memory: prompts differ in length, and each would hold another's largest.
  if (found == waiting_.end() || found->first / 2 > bytes) {
    make_room(bytes);
    void* block = take(bytes, false);
    use(bytes);
    return block;
  }
  use(found->first);
  void* block = found->second;
  waiting_.erase(found);
  return block;
}

void OrtArena::use(std::size_t bytes) noexcept {
  in_use_ += bytes;
  most_in_use_ = std::max(most_in_use_, in_use_);
}

// Before another block: of those that wait, the next smaller one goes first, which was most likely for the same tensor of a
// shorter prompt; then the largest.
void OrtArena::make_room(std::size_t bytes) noexcept {
  const std::size_t most = std::max(most_in_use_, in_use_ + bytes);
  while (!waiting_.empty() && held_.runs + bytes > most + most / 2) {
    const auto larger = waiting_.lower_bound(bytes);
    give_back(std::prev(larger != waiting_.begin() ? larger : waiting_.end()));
  }
}

void OrtArena::give_back(std::multimap<std::size_t, void*>::iterator waiting) noexcept {
  held_.runs -= waiting->first;
  release(waiting->second);
  waiting_.erase(waiting);
}

void* OrtArena::reserve(std::size_t bytes) {
  if (bytes == 0) return nullptr;
  const std::lock_guard<std::mutex> lock(mutex_);
  return take(bytes, true);
}

void* OrtArena::take(std::size_t bytes, bool reserved) {
  // Large blocks come at the start of a page each: inputs and outputs of one operator would compete for the same lines of the
  // cache.
  constexpr std::size_t page = 4096, step = 5 * alignment;
  const std::size_t shift = sizeof(Head) + (bytes < page ? 0 : blocks_++ * step % page);
  if (bytes > SIZE_MAX - shift) throw std::bad_alloc();
  void* memory = ::operator new(bytes + shift, std::align_val_t(alignment));
  void* block = static_cast<std::byte*>(memory) + shift;
  new (static_cast<Head*>(block) - 1) Head{memory, bytes, reserved};
  (reserved ? held_.weights : held_.runs) += bytes;
  return block;
}

void OrtArena::free(void* block) noexcept try {
  if (block == nullptr) return;
  const Head& head = head_of(block);
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!head.reserved) {
    in_use_ -= head.bytes;
    waiting_.emplace(head.bytes, block);
    return;
  }
  held_.weights -= head.bytes;
  release(block);
} catch (...) {  // no memory to remember it by: it is lost
}

OrtArena::Held OrtArena::held() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return held_;
}

void OrtArena::trim() {
  const std::lock_guard<std::mutex> lock(mutex_);
  while (!waiting_.empty()) give_back(waiting_.begin());
  most_in_use_ = in_use_;
}

}  // namespace rexit::core
