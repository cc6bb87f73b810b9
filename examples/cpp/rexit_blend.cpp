// A program that has an ONNX Runtime of its own and shares it with rexit: rexit_blend MODEL BUNDLE USER ITEM...
//
// MODEL is a graph of the program's: it takes `log_odds`, float32 [n], and returns `score`, float32 [n]. Both run in one thread
// pool, log to one place and take their memory from one allocator. Prints a line per item: its score.
#include <onnxruntime_cxx_api.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>
#include <vector>

#include "rexit/rexit.hpp"

namespace {

// Stands for the program's own memory management: it counts. It must outlive the environment.
struct CountingAllocator : OrtAllocator {
  CountingAllocator() : OrtAllocator{}, info(Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeDefault)) {
    version = 17;  // of an allocator that ends with Info
    Alloc = [](OrtAllocator* self, std::size_t bytes) -> void* {
      static_cast<CountingAllocator*>(self)->bytes += bytes;
      return std::aligned_alloc(64, (bytes + 63) / 64 * 64);
    };
    Free = [](OrtAllocator*, void* memory) { std::free(memory); };
    Info = [](const OrtAllocator* self) -> const OrtMemoryInfo* { return static_cast<const CountingAllocator*>(self)->info; };
  }

  Ort::MemoryInfo info;
  std::atomic<std::size_t> bytes{0};
};

void print_line(void*, OrtLoggingLevel, const char*, const char*, const char*, const char* line) {
  std::fprintf(stderr, "onnxruntime: %s\n", line);
}

Ort::Env make_environment() {
  Ort::ThreadingOptions threads;
  threads.SetGlobalIntraOpNumThreads(2);
  threads.SetGlobalSpinControl(0);
  return Ort::Env(threads, print_line, nullptr, ORT_LOGGING_LEVEL_WARNING, "blend");
}

std::vector<float> run_own_model(Ort::Session& session, std::vector<float>& log_odds) {
  const std::array<std::int64_t, 1> shape{static_cast<std::int64_t>(log_odds.size())};
  const Ort::MemoryInfo memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  const Ort::Value input = Ort::Value::CreateTensor<float>(memory, log_odds.data(), log_odds.size(), shape.data(), shape.size());
  const char *const input_name = "log_odds", *const output_name = "score";
  const auto outputs = session.Run(Ort::RunOptions{}, &input_name, &input, 1, &output_name, 1);
  const float* scores = outputs[0].GetTensorData<float>();
  return std::vector<float>(scores, scores + log_odds.size());
}

void blend(const char* model, const char* folder, const std::string& user, const std::vector<rexit::Id>& items) {
  static CountingAllocator allocator;
  Ort::Env environment = make_environment();
  Ort::ThrowOnError(Ort::GetApi().RegisterAllocator(environment, &allocator));

  rexit::BundleOptions options;
  options.onnxruntime = OrtGetApiBase();
  options.environment = static_cast<OrtEnv*>(environment);
  const rexit::Bundle bundle(folder, options);
  rexit::Session session(bundle);
  const rexit::Scores answer = session.score(rexit::Request(std::int64_t{std::stoll(user)}).items(items));

  std::vector<float> log_odds;
  for (const rexit_score& score : answer.scores) log_odds.push_back(score.log_odds);
  Ort::SessionOptions own;
  own.DisablePerSessionThreads();
  own.AddConfigEntry("session.use_env_allocators", "1");
  Ort::Session own_model(environment, model, own);
  for (const float score : run_own_model(own_model, log_odds)) std::printf("%.6f\n", static_cast<double>(score));
  std::fprintf(stderr, "%zu bytes allocated by the program's allocator\n", allocator.bytes.load());
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 5) {
    std::fprintf(stderr, "usage: rexit_blend MODEL BUNDLE USER ITEM...\n");
    return 2;
  }
  try {
    std::vector<rexit::Id> items;
    for (int i = 4; i < argc; ++i) items.push_back(std::int64_t{std::stoll(argv[i])});
    blend(argv[1], argv[2], argv[3], items);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "rexit_blend: %s\n", error.what());
    return 1;
  }
}
