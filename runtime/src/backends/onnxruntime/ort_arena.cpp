#include "backends/onnxruntime/ort_arena.hpp"

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <new>

namespace rexit::core {
namespace {

constexpr std::size_t alignment = 64, granule = 256;
constexpr std::uint32_t reserve_version = 18;  // the version of an OrtAllocator whose last function is Reserve

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

thread_local Arena* arena_of_run = nullptr;

}  // namespace

OrtArena::OrtArena() : OrtAllocator{}, info_(Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeDefault)) {
  version = reserve_version;
  Alloc = [](OrtAllocator* self, std::size_t bytes) { return static_cast<OrtArena*>(self)->current().allocate(bytes); };
  Reserve = [](OrtAllocator* self, std::size_t bytes) { return static_cast<OrtArena*>(self)->current().reserve(bytes); };
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

OrtArena::Run::Run(OrtArena& arena) : arena_(arena.acquire_idle()), outer_(arena_of_run) { arena_of_run = &arena_; }

OrtArena::Run::~Run() {
  arena_of_run = outer_;
  arena_.in_run_.clear(std::memory_order_release);
}

Arena& OrtArena::current() noexcept { return arena_of_run != nullptr ? *arena_of_run : shared_; }

Arena& OrtArena::acquire_idle() {
  for (Arena* arena = first_; arena != nullptr; arena = arena->next_)
    if (!arena->in_run_.test_and_set(std::memory_order_acquire)) return *arena;
  auto* arena = new Arena;
  arena->in_run_.test_and_set();
  arena->next_ = first_;
  while (!first_.compare_exchange_weak(arena->next_, arena)) {
  }
  return *arena;
}

Arena::Usage OrtArena::usage() const {
  Arena::Usage total = shared_.usage();
  for (const Arena* arena = first_; arena != nullptr; arena = arena->next_) {
    const Arena::Usage usage = arena->usage();
    total.runs += usage.runs;
    total.weights += usage.weights;
  }
  return total;
}

void OrtArena::trim() {
  shared_.trim();
  for (Arena* arena = first_; arena != nullptr; arena = arena->next_) arena->trim();
}

// Throws, as ONNX Runtime's own arena does: ONNX Runtime would write to a null pointer.
void* Arena::allocate(std::size_t bytes) {
  if (bytes == 0 || bytes > SIZE_MAX - granule) return nullptr;
  bytes = (bytes + granule - 1) / granule * granule;
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto free_block = find_free(bytes);
  // Not a block more than twice as large: short prompts would occupy the blocks of long prompts.
  if (free_block == free_.end() || free_block->bytes / 2 > bytes) {
    release_for(bytes);
    void* block = new_block(bytes, false);
    add_in_use(bytes);
    return block;
  }
  add_in_use(free_block->bytes);
  void* block = free_block->memory;
  free_.erase(free_block);
  return block;
}

// The smallest free block of at least this size.
Arena::FreeBlocks::iterator Arena::find_free(std::size_t bytes) noexcept {
  return std::lower_bound(free_.begin(), free_.end(), bytes,
                          [](const FreeBlock& block, std::size_t n) { return block.bytes < n; });
}

void Arena::add_in_use(std::size_t bytes) noexcept {
  in_use_ += bytes;
  peak_in_use_ = std::max(peak_in_use_, in_use_);
}

// Call before allocating a block of `bytes`. Releases free blocks: first the next smaller block, probably the same tensor of a
// shorter prompt; then the largest.
void Arena::release_for(std::size_t bytes) noexcept {
  const std::size_t peak = std::max(peak_in_use_, in_use_ + bytes);
  while (!free_.empty() && usage_.runs + bytes > peak + peak / 2) {
    const auto larger = find_free(bytes);
    const auto block = std::prev(larger != free_.begin() ? larger : free_.end());
    usage_.runs -= block->bytes;
    release(block->memory);
    free_.erase(block);
  }
}

void* Arena::reserve(std::size_t bytes) {
  if (bytes == 0) return nullptr;
  const std::lock_guard<std::mutex> lock(mutex_);
  return new_block(bytes, true);
}

void* Arena::new_block(std::size_t bytes, bool reserved) {
  // Without the shift all large blocks would begin at a page, and an operator's inputs and outputs would compete for the same
  // cache lines.
  constexpr std::size_t page = 4096, step = 5 * alignment;
  const std::size_t shift = sizeof(BlockHeader) + (bytes < page ? 0 : block_count_++ * step % page);
  if (bytes > SIZE_MAX - shift) throw std::bad_alloc();
  void* memory = ::operator new(bytes + shift, std::align_val_t(alignment));
  void* block = static_cast<std::byte*>(memory) + shift;
  new (static_cast<BlockHeader*>(block) - 1) BlockHeader{memory, bytes, this, reserved};
  (reserved ? usage_.weights : usage_.runs) += bytes;
  return block;
}

void Arena::free(void* block) noexcept {
  if (block != nullptr) header_of(block).owner->reclaim(block);
}

void Arena::reclaim(void* block) noexcept try {
  const BlockHeader& header = header_of(block);
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!header.reserved) {
    in_use_ -= header.bytes;
    free_.insert(find_free(header.bytes), {header.bytes, block});
    return;
  }
  usage_.weights -= header.bytes;
  release(block);
} catch (...) {  // out of memory: the block leaks
}

Arena::Usage Arena::usage() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return usage_;
}

void Arena::trim() {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (const FreeBlock& block : free_) {
    usage_.runs -= block.bytes;
    release(block.memory);
  }
  FreeBlocks().swap(free_);
  peak_in_use_ = in_use_;
}

}  // namespace rexit::core
