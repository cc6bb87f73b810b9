#include "backends/nvidia/shared_library.hpp"

#include <cstdlib>

#include "base/platform.hpp"
#include "base/status.hpp"

namespace rexit::core {

SharedLibrary::SharedLibrary(const char* title, const char* variable, const std::string& name) : title_(title), name_(name) {
  const char* path = variable == nullptr ? nullptr : std::getenv(variable);
  const bool has_path = path != nullptr && *path != '\0';
  if (has_path) name_ = path;
  handle_ = platform::load_library(name_.c_str());
  if (handle_ != nullptr) return;
  const std::string reason = platform::error_text();
  fail(REXIT_BACKEND_MISSING, "device `tensorrt`: ", title_, " cannot be loaded: ", reason,
       has_path || variable == nullptr ? "" : std::string("; set ") + variable + " to the path of " + name_);
}

void* SharedLibrary::address(const char* symbol) const {
  void* address = platform::symbol(handle_, symbol);
  if (address == nullptr)
    fail(REXIT_BACKEND_MISSING, "device `tensorrt`: ", name_, " has no ", symbol, ": it is no ", title_, " or too old");
  return address;
}

}  // namespace rexit::core
