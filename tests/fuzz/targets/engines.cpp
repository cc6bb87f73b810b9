// engine.json of an otherwise sound variant for TensorRT. Plans themselves are code, which TensorRT loads; they are trusted.
#include "bundle/engines.hpp"

#include "target.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace rexit::fuzz;
  using namespace rexit::core;
  static const tar::Files sound = tar::unpack(seed_bundle("engines"));
  tar::Files files = sound;
  files["variants/tensorrt-fp16/engines/sm87-trt10.3.0/engine.json"].assign(reinterpret_cast<const char*>(data), size);
  const std::string archive = tar::pack(files);
  const Bundle bundle(open_archive("bundle", reinterpret_cast<const unsigned char*>(archive.data()), archive.size()),
                      "tensorrt-fp16");
  refused([&] {
    for (const Plan& plan : find_engines(bundle, {"8.7", "10.3.0"})) {
      REXIT_PROMISE(!plan.profiles.empty());
      REXIT_PROMISE(plan.path.rfind("bundle/variants/tensorrt-fp16/engines/", 0) == 0);
      REXIT_PROMISE(plan.path.find("/../") == std::string::npos);
    }
  });
  engine_folders(bundle);
  return 0;
}
