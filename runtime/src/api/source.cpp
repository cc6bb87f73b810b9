#include "api/source.hpp"

#include <optional>
#include <string>
#include <utility>

#include "api/c_struct.hpp"
#include "files/callbacks.hpp"

namespace rexit::core {
namespace {

// What the program frees when rexit no longer needs it.
class Released {
 public:
  Released(void* context, void (*release)(void* context)) : context_(context), release_(release) {}
  ~Released() {
    if (release_ != nullptr) release_(context_);
  }
  Released(const Released&) = delete;
  Released& operator=(const Released&) = delete;

 private:
  void* context_;
  void (*release_)(void* context);
};

struct OwnedSource {
  std::shared_ptr<const Released> released;  // declared first: goes last
  std::shared_ptr<const Source> source;
};

std::shared_ptr<const Source> source_of(const rexit_source& source, const std::shared_ptr<const Released>& owner) {
  const std::string name = source.name != nullptr ? source.name : "bundle";
  if (source.archive != nullptr)
    return open_archive(name, owner, static_cast<const unsigned char*>(source.archive), source.archive_bytes);
  if (source.has_file == 1)
    return open_archive(name, source.file, source.file_offset,
                        source.file_bytes != 0 ? std::make_optional(source.file_bytes) : std::nullopt);
  return std::make_shared<const CallbackSource>(name, Callbacks{source.context, source.get_size, source.read});
}

}  // namespace

std::shared_ptr<const Source> read_source(const rexit_source* from, bool owned) {
  const rexit_source source = read_struct(from, "source");
  auto released = std::make_shared<const Released>(source.context, owned ? source.release : nullptr);
  if (source.has_file != 0 && source.has_file != 1)
    fail(REXIT_INVALID_ARGUMENT, "source.has_file is ", source.has_file, ", expected 0 or 1");
  if ((source.get_size == nullptr) != (source.read == nullptr))
    fail(REXIT_INVALID_ARGUMENT, "source.get_size and source.read: only one of them is set");
  const int kinds = (source.archive != nullptr ? 1 : 0) + source.has_file + (source.get_size != nullptr ? 1 : 0);
  if (kinds != 1) fail(REXIT_INVALID_ARGUMENT, "source has ", kinds, " of archive, has_file and get_size, expected exactly one");
  std::shared_ptr<const Source> opened = source_of(source, released);
  const auto together = std::make_shared<const OwnedSource>(OwnedSource{std::move(released), std::move(opened)});
  return {together, together->source.get()};
}

}  // namespace rexit::core
