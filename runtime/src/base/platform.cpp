#include "base/platform.hpp"

#include <dlfcn.h>
#include <sys/utsname.h>
#ifdef __APPLE__
#include <xlocale.h>
#endif
#ifdef __linux__
#include <sched.h>
#endif

#include <algorithm>
#include <clocale>
#include <thread>

namespace rexit::core::platform {

void* load_library(const char* path, std::string& reason) {
  void* library = ::dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) reason = ::dlerror();
  return library;
}

void* symbol(void* library, const char* name) noexcept { return ::dlsym(library, name); }

#ifdef __APPLE__
const char* const onnxruntime_names[2] = {"libonnxruntime.1.dylib", "libonnxruntime.dylib"};
#else
const char* const onnxruntime_names[2] = {"libonnxruntime.so.1", "libonnxruntime.so"};
#endif

int cores() noexcept {
#ifdef __linux__
  cpu_set_t set;
  if (::sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

std::string architecture() {
  ::utsname system{};
  return ::uname(&system) == 0 ? system.machine : "";
}

CLocale::CLocale() noexcept {
  static const locale_t c_locale = ::newlocale(LC_ALL_MASK, "C", nullptr);  // null, out of memory: uselocale() changes nothing
  previous_ = ::uselocale(c_locale);
}

CLocale::~CLocale() { ::uselocale(static_cast<locale_t>(previous_)); }

}  // namespace rexit::core::platform
