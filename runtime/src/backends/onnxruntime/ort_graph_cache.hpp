// Graphs as ONNX Runtime has optimized them, in a folder of the caller's, so that a later process need not optimize them again.
#pragma once

#include <cstddef>
#include <string>

#include "backends/onnxruntime/ort_api.hpp"
#include "bundle/bundle.hpp"

namespace rexit::core {

// An entry is a folder with a graph and its weights for each segment. Its name is the digest of what they depend on: the variant,
// the library's version, the processor and rexit's version. It appears complete or not at all: it is written under another name
// and renamed. A cache that cannot be written is a warning: the segments are loaded all the same.
class GraphCache {
 public:
  // `folder` null: no cache, and the functions do nothing. Throws REXIT_UNSUPPORTED on a system that does not describe its
  // processor.
  GraphCache(const char* folder, const Variant& variant, const std::string& ort_version);
  ~GraphCache();  // deletes an unfinished entry
  GraphCache(const GraphCache&) = delete;
  GraphCache& operator=(const GraphCache&) = delete;
  GraphCache(GraphCache&& other) noexcept;

  bool has_entry() const;
  std::string graph(std::size_t segment) const;  // of the entry
  // Deletes the entry, with a warning that gives the reason.
  void drop_entry(const std::string& reason);

  // Begins a new entry; false if there is no cache or it cannot be written.
  bool begin_entry();
  // A session with these options writes the segment when it is created.
  void write_segment(Ort::SessionOptions& options, std::size_t segment) const;
  // Call when all segments are written, or when one cannot be.
  void finish_entry();
  void abandon_entry(const std::string& reason);

 private:
  std::string entry_;      // empty: no cache
  std::string temporary_;  // empty: nothing is being written
};

}  // namespace rexit::core
