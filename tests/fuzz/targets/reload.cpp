// A whole bundle, in a tar archive, in the place of one that is open: through reload, and then as `bundle`. Segments run in the
// double of the previous bundle, so its output must still fit.
#include "target.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace rexit::fuzz;
  static OpenedSeed plain("plain"), zero("zero");
  const tar::Files files = bundle_files(data, size);
  OpenedSeed& opened = files.count("catalog/zero.onnx") != 0 ? zero : plain;
  opened.folder.replace(files);
  rexit_bundle* reloaded = nullptr;
  if (!ok(rexit_bundle_reload(opened.bundle, &reloaded))) {
    REXIT_PROMISE(reloaded == nullptr);
  } else if (reloaded != nullptr) {
    use_opened(opened.folder.path(), reloaded);
  }
  rexit_bundle_close(reloaded);
  return 0;
}
