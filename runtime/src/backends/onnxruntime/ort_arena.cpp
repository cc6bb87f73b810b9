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
  Arena* owner;
  bool reserved;
};
static_assert(sizeof(BlockHeader) == alignment);

BlockHeader& header_of(void* block) { return static_cast<BlockHeader*>(block)[-1]; }
void release(void* block) noexcept { ::operator delete(header_of(block).memory, std::align_val_t(alignment)); }

thread_local Arena* of_run = nullptr;

}  // namespace

OrtArena::OrtArena() : OrtAllocator{}, info_(Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeDefault)) {
  version = reserve_version;
  Alloc = [](OrtAllocator* self, std::size_t bytes) { return static_cast<OrtArena*>(self)->here().allocate(bytes); };
  Reserve = [](OrtAllocator* self, std::size_t bytes) { return static_cast<OrtArena*>(self)->here().reserve(bytes); };
  Free = [](OrtAllocator*, void* block) { Arena::free(block); };
  Info = [](const OrtAllocator* self) { return static_cast<const OrtMemoryInfo*>(static_cast<const OrtArena*>(self)->info_); };
}

OrtArena::~OrtArena() {
  for (const Arena* arena = first_; arena != nullptr;) {
    const Arena* next = arena->next_;
    delete arena;
    arena = next;
  }
}

OrtArena::Run::Run(OrtArena& arena) : arena_(arena.unused()) { of_run = &arena_; }

OrtArena::Run::~Run() {
  of_run = nullptr;
  arena_.in_run_.clear(std::memory_order_release);
}

Arena& OrtArena::here() noexcept { return of_run != nullptr ? *of_run : shared_; }

Arena& OrtArena::unused() {
  for (Arena* arena = first_; arena != nullptr; arena = arena->next_)
    if (!arena->in_run_.test_and_set(std::memory_order_acquire)) return *arena;
  auto* arena = new Arena;
  arena->in_run_.test_and_set();
  arena->next_ = first_;
  while (!first_.compare_exchange_weak(arena->next_, arena)) {
  }
  return *arena;
}

Arena::Held OrtArena::held() const {
  Arena::Held all = shared_.held();
  for (const Arena* arena = first_; arena != nullptr; arena = arena->next_) {
    const Arena::Held held = arena->held();
    all.runs += held.runs;
    all.weights += held.weights;
  }
  return all;
}

void OrtArena::trim() {
  shared_.trim();
  for (Arena* arena = first_; arena != nullptr; arena = arena->next_) arena->trim();
}

// The exception passes through ONNX Runtime as what its own arena throws does; it would write to a null pointer.
void* Arena::allocate(std::size_t bytes) {
  if (bytes == 0 || bytes > SIZE_MAX - granule) return nullptr;
  bytes = (bytes + granule - 1) / granule * granule;
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = first_of(bytes);
  // A block more than twice as large would be a waste: prompts differ in length, and short ones would occupy long ones' blocks.
  if (found == free_.end() || found->bytes / 2 > bytes) {
    make_room(bytes);
    void* block = take(bytes, false);
    use(bytes);
    return block;
  }
  use(found->bytes);
  void* block = found->memory;
  free_.erase(found);
  return block;
}

// The first free block of at least this size.
Arena::FreeBlocks::iterator Arena::first_of(std::size_t bytes) noexcept {
  return std::lower_bound(free_.begin(), free_.end(), bytes,
                          [](const FreeBlock& block, std::size_t n) { return block.bytes < n; });
}

void Arena::use(std::size_t bytes) noexcept {
  in_use_ += bytes;
  peak_in_use_ = std::max(peak_in_use_, in_use_);
}

// Before a new block is allocated. Of the free blocks, the next smaller one is released first, since it was most likely for the
// same tensor of a shorter prompt; then the largest.
void Arena::make_room(std::size_t bytes) noexcept {
  const std::size_t most = std::max(peak_in_use_, in_use_ + bytes);
  while (!free_.empty() && held_.runs + bytes > most + most / 2) {
    const auto larger = first_of(bytes);
    give_back(std::prev(larger != free_.begin() ? larger : free_.end()));
  }
}

void Arena::give_back(FreeBlocks::iterator block) noexcept {
  held_.runs -= block->bytes;
  release(block->memory);
  free_.erase(block);
}

void* Arena::reserve(std::size_t bytes) {
  if (bytes == 0) return nullptr;
  const std::lock_guard<std::mutex> lock(mutex_);
  return take(bytes, true);
}

void* Arena::take(std::size_t bytes, bool reserved) {
  // Large blocks would each begin at the start of a page, and an operator's inputs and outputs would compete for the same cache
  // lines.
  constexpr std::size_t page = 4096, step = 5 * alignment;
  const std::size_t shift = sizeof(BlockHeader) + (bytes < page ? 0 : blocks_++ * step % page);
  if (bytes > SIZE_MAX - shift) throw std::bad_alloc();
  void* memory = ::operator new(bytes + shift, std::align_val_t(alignment));
  void* block = static_cast<std::byte*>(memory) + shift;
  new (static_cast<BlockHeader*>(block) - 1) BlockHeader{memory, bytes, this, reserved};
  (reserved ? held_.weights : held_.runs) += bytes;
  return block;
}

void Arena::free(void* block) noexcept {
  if (block != nullptr) header_of(block).owner->take_back(block);
}

void Arena::take_back(void* block) noexcept try {
  const BlockHeader& header = header_of(block);
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!header.reserved) {
    in_use_ -= header.bytes;
    free_.insert(first_of(header.bytes), {header.bytes, block});
    return;
  }
  held_.weights -= header.bytes;
  release(block);
} catch (...) {  // out of memory: the block cannot be recorded and is lost
}

Arena::Held Arena::held() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return held_;
}

void Arena::trim() {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (const FreeBlock& block : free_) {
    held_.runs -= block.bytes;
    release(block.memory);
  }
  FreeBlocks().swap(free_);
  peak_in_use_ = in_use_;
}

}  // namespace rexit::core
