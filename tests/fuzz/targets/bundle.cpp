// A whole bundle, as a tar archive: through open, verify, session, score and trace, with a backend that is a double. As `graph`
// with real graphs in ONNX Runtime: every graph ends in a status.
#include "target.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace rexit::fuzz;
  static const ArchiveFile archive;
  archive.replace(data, size);
  use_bundle(archive.path());
  return 0;
}
