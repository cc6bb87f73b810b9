// rexit's kernels as ONNX Runtime operators of domain `rexit`.
#pragma once

#include <cstddef>

#include "backends/onnxruntime/ort_library.hpp"
#include "kernels/attention/past_span.hpp"

namespace rexit::core {

// The exporter writes these operators as functions of standard operators, which any ONNX Runtime inlines and runs. Sessions with
// these options run the kernels instead. For the CPU only.
void add_kernels(Ort::SessionOptions& options);

// SlateAttention kernels that this thread has created, in all sessions.
std::size_t created_attention_kernels() noexcept;

// The spans of this thread's run, for its SlateAttention kernels. The graph does not have them as an input: bundles exported
// before there were spans can be used with them.
class RunSpans {
 public:
  // Null: the run has no spans. They must outlive the object.
  RunSpans(const PastSpan* spans, std::size_t count) noexcept;
  ~RunSpans();
  RunSpans(const RunSpans&) = delete;
  RunSpans& operator=(const RunSpans&) = delete;

  // Of this thread's current run; null: it has none.
  static RunSpans* current() noexcept;
  const PastSpan* spans() const noexcept { return spans_; }
  std::size_t count() const noexcept { return count_; }
  // Kernels that have used the spans.
  std::size_t uses() const noexcept { return uses_; }
  void count_use() noexcept { ++uses_; }

 private:
  const PastSpan* spans_;
  std::size_t count_, uses_ = 0;
};

}  // namespace rexit::core
