// Shared libraries, processors and locales, of Linux and macOS.
#pragma once

#include <string>

namespace rexit::core::platform {

// A shared library, never unloaded; null: failed, for a `reason`.
void* load_library(const char* path, std::string& reason);
void* symbol(void* library, const char* name) noexcept;
// Names of ONNX Runtime's library, the preferred one first.
extern const char* const onnxruntime_names[2];

// Processors that this process may use.
int cores() noexcept;
// As in `uname -m`; "": unknown.
std::string architecture();

// While it lives, C functions of this thread read and write numbers as in the C locale, whatever the program's locale.
class CLocale {
 public:
  CLocale() noexcept;
  ~CLocale();
  CLocale(const CLocale&) = delete;
  CLocale& operator=(const CLocale&) = delete;

 private:
  void* previous_;
};

}  // namespace rexit::core::platform
