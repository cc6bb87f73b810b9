#include "session/supervised_backend.hpp"

#include <algorithm>
#include <utility>

#include "base/clock.hpp"
#include "base/status.hpp"

namespace rexit::core {

SupervisedBackend::SupervisedBackend(std::shared_ptr<const Backend> backend, std::size_t segments)
    : backend_(std::move(backend)), stop_(backend_->make_stop()), segments_(segments) {}

void SupervisedBackend::cancel() noexcept try {
  const std::lock_guard<std::mutex> lock(mutex_);
  cancelled_ = true;
  if (stop_ != nullptr) stop_->request();
} catch (...) {  // the mutex cannot be locked; see set_log
}

void SupervisedBackend::discard_cancellation() noexcept try {
  const std::lock_guard<std::mutex> lock(mutex_);
  cancelled_ = false;
  if (stop_ != nullptr) stop_->reset();
} catch (...) {
}

std::vector<SegmentStats> SupervisedBackend::segments() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return segments_;
}

void SupervisedBackend::reset_segments() noexcept try {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::fill(segments_.begin(), segments_.end(), SegmentStats{});
} catch (...) {
}

void SupervisedBackend::run(std::size_t segment, const Pass& pass) const {
  if (cancelled_) fail(REXIT_CANCELLED, "cancelled before segment ", segment);
  const Clock::time_point start = Clock::now();
  Pass stoppable = pass;
  stoppable.stop = stop_.get();
  try {
    backend_->run(segment, stoppable);
  } catch (const Error&) {
    record(segment, microseconds_since(start), pass, false);
    if (cancelled_) fail(REXIT_CANCELLED, "cancelled while running segment ", segment);
    throw;
  }
  record(segment, microseconds_since(start), pass, true);
}

void SupervisedBackend::record(std::size_t segment, double time, const Pass& pass, bool succeeded) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  SegmentStats& stats = segments_[segment];
  const bool prefix = pass.logits == nullptr;  // only slates read a head
  (prefix ? stats.prefix_us : stats.slate_us) += time / static_cast<double>(pass.side_by_side);
  if (!succeeded) return;
  if (prefix) {
    stats.prefix_tokens += pass.tokens;
  } else {
    stats.candidates += pass.rows;
    stats.candidate_tokens += pass.tokens;
  }
}

}  // namespace rexit::core
