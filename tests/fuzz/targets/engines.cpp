// engine.json of an otherwise sound variant for TensorRT. Plans themselves are code, which TensorRT loads; they are trusted.
#include "bundle/engines.hpp"

#include "target.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace rexit::fuzz;
  using namespace rexit::core;
  static tar::Files files = seed_bundle("engines");
  static tar::Folder folder;
  files["variants/tensorrt-fp16/engines/sm87-trt10.3.0/engine.json"].assign(reinterpret_cast<const char*>(data), size);
  folder.replace(files);
  const Bundle bundle(folder.path(), "tensorrt-fp16");
  refused([&] {
    for (const Plan& plan : find_engines(bundle, {"8.7", "10.3.0"})) {
      REXIT_PROMISE(!plan.profiles.empty());
      REXIT_PROMISE(plan.path.rfind(folder.path() + "/variants/tensorrt-fp16/engines/", 0) == 0);
      REXIT_PROMISE(plan.path.find("/../") == std::string::npos);
    }
  });
  engine_folders(bundle);
  return 0;
}
