#include "bundle/conditions.hpp"

namespace rexit::core {

std::string differences(const Conditions& made_on, const Conditions& here) {
  const auto text = [](std::int32_t threads) { return threads == 0 ? std::string() : std::to_string(threads); };
  std::string all;
  const auto compare = [&](const char* name, const std::string& made, const std::string& now) {
    if (made.empty() || now.empty() || made == now) return;
    all += (all.empty() ? "" : "; ") + std::string(name) + " " + made + ", here " + now;
  };
  compare("device", made_on.device, here.device);
  compare("threads", text(made_on.threads), text(here.threads));
  compare("architecture", made_on.architecture, here.architecture);
  compare("onnxruntime", made_on.onnxruntime, here.onnxruntime);
  compare("rexit", made_on.rexit, here.rexit);
  return all;
}

}  // namespace rexit::core
