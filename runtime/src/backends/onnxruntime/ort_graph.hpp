// Loads a segment's graph into ONNX Runtime.
#pragma once

#include <optional>
#include <string>

#include "backends/onnxruntime/ort_library.hpp"
#include "bundle/bundle.hpp"

namespace rexit::core {

// A graph to load: from its path, with weights beside it; or from memory, if the bundle is not in a folder.
class OrtGraph {
 public:
  // Throws REXIT_BACKEND_MISSING if it must be loaded from memory and the library cannot. Only after ort_environment().
  OrtGraph(const Bundle& bundle, const Segment& segment);

  const std::string& path() const noexcept { return path_; }  // for messages
  // Throws Ort::Exception. The session keeps no reference to the graph.
  Ort::Session load(const Ort::Env& env, const Ort::SessionOptions& options, const Execution& execution) const;

 private:
  Ort::Session load_with(const Ort::Env& env, const Ort::SessionOptions& options) const;
  void add_weights(Ort::SessionOptions& options) const;

  std::string path_;
  std::optional<File> contents_, weights_;
  std::string weights_name_;  // in the graph
};

}  // namespace rexit::core
