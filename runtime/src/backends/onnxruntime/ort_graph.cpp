#include "backends/onnxruntime/ort_graph.hpp"

#include <cstring>
#include <optional>
#include <string>

#include "base/platform.hpp"

namespace rexit::core {
namespace {

// ONNX Runtime copies the weights while it loads the graph.
void add_weights([[maybe_unused]] Ort::SessionOptions& options, [[maybe_unused]] const Segment& segment,
                 [[maybe_unused]] const File& weights) {
#if ORT_API_VERSION >= 18
  // Relative to the graph.
  const std::string folder = segment.graph.substr(0, segment.graph.rfind('/') + 1);
  const bool is_beside = segment.weights.compare(0, folder.size(), folder) == 0;
  const auto native_name = platform::native_path(is_beside ? segment.weights.substr(folder.size()) : segment.weights);
  const auto* name = native_name.c_str();
  char* data = reinterpret_cast<char*>(const_cast<unsigned char*>(weights.data()));
  const std::size_t size = weights.size();
  Ort::ThrowOnError(Ort::GetApi().AddExternalInitializersFromFilesInMemory(options, &name, &data, &size, 1));
#endif
}

}  // namespace

// ONNX Runtime has a single environment per process. If the host program has created it, it may have no pool for sessions to
// share, and every segment gets its own pool. That pool does not spin unless the caller says so, which would take cores from the
// running segment.
Ort::Session load_graph(const Bundle& bundle, const Segment& segment, const Ort::SessionOptions& common,
                        const Execution& execution) {
  Ort::SessionOptions options = common.Clone();
  std::optional<File> graph, weights;
  if (!bundle.source()->is_folder()) {
    graph = bundle.source()->open(segment.graph);
    if (!segment.weights.empty()) {
      require_loading_from_memory();
      weights = bundle.source()->open(segment.weights).aligned();
      add_weights(options, segment, *weights);
    }
  }
  const Ort::Env& env = ort_environment(execution);
  const auto load_with = [&](const Ort::SessionOptions& with) {
    return graph ? Ort::Session(env, graph->data(), graph->size(), with)
                 : Ort::Session(env, platform::native_path(bundle.where(segment.graph)).c_str(), with);
  };
  if (!execution.own_threads) {
    Ort::SessionOptions shared_pool = options.Clone();
    shared_pool.DisablePerSessionThreads();
    try {
      return load_with(shared_pool);
    } catch (const Ort::Exception& error) {
      if (std::strstr(error.what(), "CreateEnvWithGlobalThreadPools") == nullptr) throw;
    }
  }
  options.SetIntraOpNumThreads(ort_threads(execution))
      .AddConfigEntry("session.intra_op.allow_spinning", execution.spinning == REXIT_SPINNING_ON ? "1" : "0");
  return load_with(options);
}

}  // namespace rexit::core
