// A whole bundle, as a tar archive, in the place of one that is open: through reload, and then as `bundle`. Segments run in the
// double of the previous bundle, so its output must still fit.
#include "target.hpp"

namespace {

using namespace rexit::fuzz;

struct Opened {
  explicit Opened(const char* name) {
    const std::string seed = seed_bundle(name);
    archive.replace(reinterpret_cast<const std::uint8_t*>(seed.data()), seed.size());
    REXIT_PROMISE(ok(rexit_bundle_open(archive.path().c_str(), nullptr, &bundle)));
  }
  ~Opened() { rexit_bundle_close(bundle); }

  ArchiveFile archive;
  rexit_bundle* bundle = nullptr;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static Opened plain("plain"), vectors("vectors"), zero("zero");
  const tar::Files files = tar::unpack({reinterpret_cast<const char*>(data), size});
  Opened& opened = files.count("vectors.safetensors") != 0 ? vectors : files.count("catalog/zero.onnx") != 0 ? zero : plain;
  opened.archive.replace(data, size);
  rexit_bundle* reloaded = nullptr;
  if (!ok(rexit_bundle_reload(opened.bundle, &reloaded))) {
    REXIT_PROMISE(reloaded == nullptr);
  } else if (reloaded != nullptr) {
    use_opened(opened.archive.path(), reloaded);
  }
  rexit_bundle_close(reloaded);
  return 0;
}
