// A whole bundle, as an archive: through open, verify, session, score and trace, with a backend that is a double. As `graph` with
// real graphs in ONNX Runtime: every graph ends in a status.
#include "target.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace rexit::fuzz;
  static Folder folder;
  const auto archive = unpack(data, size);
  if (!archive) return -1;
  folder.put(*archive);
  use_bundle(folder.path(), nullptr);
  return 0;
}
