// GCC 14 calls this where an exception would leave a noexcept function. Its libstdc++ has it; GCC 12's, which is JetPack 6's,
// does not.
#include <cxxabi.h>

#include <exception>

extern "C" [[noreturn]] void __cxa_call_terminate(void* exception) noexcept;

extern "C" void __cxa_call_terminate(void* exception) noexcept {
  if (exception != nullptr) abi::__cxa_begin_catch(exception);
  std::terminate();
}
