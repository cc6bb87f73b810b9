// A whole bundle, as an archive, in the folder of one that is open: through reload, and then as `bundle`. Segments run in the
// double of the previous bundle, so its output must still fit.
#include "target.hpp"

namespace {

using namespace rexit::fuzz;

struct Opened {
  explicit Opened(const char* name) {
    folder.put(seed_bundle(name));
    REXIT_PROMISE(ok(rexit_bundle_open(folder.path().c_str(), nullptr, &bundle)));
  }
  ~Opened() { rexit_bundle_close(bundle); }

  Folder folder;
  rexit_bundle* bundle = nullptr;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static Opened plain("plain"), vectors("vectors"), zero("zero");
  const auto archive = unpack(data, size);
  if (!archive) return -1;
  Opened& opened = archive->count("vectors.safetensors") != 0 ? vectors : archive->count("catalog/zero.onnx") != 0 ? zero : plain;
  opened.folder.put(*archive);
  rexit_bundle* reloaded = nullptr;
  if (!ok(rexit_bundle_reload(opened.bundle, &reloaded))) {
    REXIT_PROMISE(reloaded == nullptr);
  } else if (reloaded != nullptr) {
    use_opened(opened.folder.path(), reloaded);
  }
  rexit_bundle_close(reloaded);
  return 0;
}
