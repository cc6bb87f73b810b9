// engine.json of an otherwise sound variant for TensorRT. Plans themselves are code, which TensorRT loads; they are trusted.
#include "bundle/engines.hpp"

#include "target.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace rexit::fuzz;
  using namespace rexit::core;
  static Folder folder;
  static const Archive base = seed_bundle("engines");
  static const Bundle bundle = (folder.put(base), Bundle(open_source(folder.path()), "tensorrt-fp16"));
  folder.put("variants/tensorrt-fp16/engines/sm87-trt10.3.0/engine.json", data, size);
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
