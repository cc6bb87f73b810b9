// A whole bundle, in a tar archive: through open, verify, session, score and trace, with a backend that is a double. As `graph`
// with real graphs in ONNX Runtime: every graph ends in a status.
#include "target.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace rexit::fuzz;
  static tar::Folder folder;
  folder.replace(bundle_files(data, size));
  use_bundle(folder.path());
  return 0;
}
