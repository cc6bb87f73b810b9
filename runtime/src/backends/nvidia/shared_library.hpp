// A shared library opened at run time and never unloaded: GPU drivers support that badly.
#pragma once

#include <string>

namespace rexit::core {

class SharedLibrary {
 public:
  // Opens the path in the environment variable `variable` if that is set, else `name`. `title`: for messages. Throws
  // REXIT_BACKEND_MISSING.
  SharedLibrary(const char* title, const char* variable, const std::string& name);

  // Throws REXIT_BACKEND_MISSING if the library has no such symbol.
  template <class Function>
  Function get(const char* symbol) const {
    return reinterpret_cast<Function>(address(symbol));
  }

 private:
  void* address(const char* symbol) const;

  std::string title_, name_;
  void* handle_;
};

}  // namespace rexit::core
