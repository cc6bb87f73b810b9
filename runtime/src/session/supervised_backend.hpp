// A session's view of its backend: measures every segment, and ends a cancelled call.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "backends/backend.hpp"

namespace rexit::core {

// As in rexit_segment_stats.
struct SegmentStats {
  std::uint64_t prefix_tokens = 0, candidates = 0, candidate_tokens = 0;
  double prefix_us = 0, slate_us = 0;
};

class SupervisedBackend final : public Backend {
 public:
  SupervisedBackend(std::shared_ptr<const Backend> backend, std::size_t segments);

  // From any thread: the running call throws REXIT_CANCELLED as soon as the backend can stop.
  void cancel() noexcept;
  void discard_cancellation() noexcept;
  const std::atomic<bool>& cancelled() const noexcept { return cancelled_; }

  // Totals since reset_segments(). From any thread, also during a call.
  std::vector<SegmentStats> segments() const;
  void reset_segments() noexcept;

  void run(std::size_t segment, const Pass& pass) const override;
  std::size_t concurrency() const noexcept override { return backend_->concurrency(); }
  void* allocate(std::size_t bytes) const override { return backend_->allocate(bytes); }
  void release(void* memory) const noexcept override { backend_->release(memory); }
  void copy(void* to, const void* from, std::size_t bytes) const override { backend_->copy(to, from, bytes); }
  void move_rows(void* rows, std::size_t bytes, const RowMove* moves, std::size_t count) const override {
    backend_->move_rows(rows, bytes, moves, count);
  }
  std::size_t tensor_alignment() const noexcept override { return backend_->tensor_alignment(); }
  void copy_rows(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch, std::size_t bytes,
                 std::size_t count) const override {
    backend_->copy_rows(to, to_pitch, from, from_pitch, bytes, count);
  }
  void finish_copies() const override { backend_->finish_copies(); }
  std::size_t gpu_bytes() const override { return backend_->gpu_bytes(); }
  void trim() const override { backend_->trim(); }

 private:
  void record(std::size_t segment, double time, const Pass& pass, bool succeeded) const;

  std::shared_ptr<const Backend> backend_;
  std::unique_ptr<Stop> stop_;  // null: the backend cannot stop a run
  mutable std::mutex mutex_;    // guards segments_, and changes of cancelled_ and stop_ together
  std::atomic<bool> cancelled_{false};
  mutable std::vector<SegmentStats> segments_;
};

}  // namespace rexit::core
