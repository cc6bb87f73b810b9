#include "bundle/conditions.hpp"

namespace rexit::core {

std::string differences(const Conditions& recorded, const Conditions& here) {
  const auto text = [](std::int32_t threads) { return threads == 0 ? std::string() : std::to_string(threads); };
  std::string differences;
  const auto compare = [&](const char* name, const std::string& then, const std::string& now) {
    if (then.empty() || now.empty() || then == now) return;
    differences += (differences.empty() ? "" : "; ") + std::string(name) + " " + then + ", here " + now;
  };
  compare("device", recorded.device, here.device);
  compare("threads", text(recorded.threads), text(here.threads));
  compare("architecture", recorded.architecture, here.architecture);
  compare("onnxruntime", recorded.onnxruntime, here.onnxruntime);
  compare("rexit", recorded.rexit, here.rexit);
  return differences;
}

}  // namespace rexit::core
