#include "backends/onnxruntime/ort_graph.hpp"

#include <cstring>

#include "base/platform.hpp"

namespace rexit::core {

OrtGraph::OrtGraph(const Bundle& bundle, const Segment& segment) : path_(bundle.where(segment.graph)) {
  if (bundle.source()->is_folder()) return;
  contents_ = bundle.source()->open(segment.graph);
  if (segment.weights.empty()) return;
  require_loading_from_memory();
  weights_ = bundle.source()->open(segment.weights).aligned();
  // Relative to the graph.
  const std::string folder = segment.graph.substr(0, segment.graph.rfind('/') + 1);
  const bool is_beside = segment.weights.compare(0, folder.size(), folder) == 0;
  weights_name_ = is_beside ? segment.weights.substr(folder.size()) : segment.weights;
}

// ONNX Runtime has a single environment per process. If the host program has created it, it may have no pool for sessions to
// share, and every segment gets its own pool. That pool does not spin unless the caller says so, which would take cores from the
// running segment.
Ort::Session OrtGraph::load(const Ort::Env& env, const Ort::SessionOptions& common, const Execution& execution) const {
  Ort::SessionOptions options = common.Clone();
  add_weights(options);
  if (!execution.own_threads) {
    Ort::SessionOptions shared_pool = options.Clone();
    shared_pool.DisablePerSessionThreads();
    try {
      return load_with(env, shared_pool);
    } catch (const Ort::Exception& error) {
      if (std::strstr(error.what(), "CreateEnvWithGlobalThreadPools") == nullptr) throw;
    }
  }
  Ort::SessionOptions own_pool = options.Clone();
  own_pool.SetIntraOpNumThreads(ort_threads(execution))
      .AddConfigEntry("session.intra_op.allow_spinning", execution.spinning == REXIT_SPINNING_ON ? "1" : "0");
  return load_with(env, own_pool);
}

Ort::Session OrtGraph::load_with(const Ort::Env& env, const Ort::SessionOptions& options) const {
  return contents_ ? Ort::Session(env, contents_->data(), contents_->size(), options)
                   : Ort::Session(env, platform::native_path(path_).c_str(), options);
}

// ONNX Runtime copies the weights while it loads the graph.
void OrtGraph::add_weights([[maybe_unused]] Ort::SessionOptions& options) const {
#if ORT_API_VERSION >= 18
  if (!weights_) return;
  const platform::NativePath native_name = platform::native_path(weights_name_);
  const auto* name = native_name.c_str();
  char* data = reinterpret_cast<char*>(const_cast<unsigned char*>(weights_->data()));
  const std::size_t size = weights_->size();
  Ort::ThrowOnError(Ort::GetApi().AddExternalInitializersFromFilesInMemory(options, &name, &data, &size, 1));
#endif
}

}  // namespace rexit::core
