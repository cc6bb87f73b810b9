// Threads for the length of a call.
#pragma once

#include <cstddef>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace rexit::core {

// Calls `work(i)` for i < count, each in a thread of its own, 0 in the caller's, and returns after all calls. If the system has
// no more threads or memory, the others are not called: `work` takes what there is to do from a queue. Throws what a call threw.
template <class Work>
void run_in_threads(std::size_t count, const Work& work) {
  if (count == 1) return work(0);
  std::mutex mutex;
  std::exception_ptr error;
  const auto guarded = [&](std::size_t i) {
    try {
      work(i);
    } catch (...) {
      const std::lock_guard<std::mutex> lock(mutex);
      if (error == nullptr) error = std::current_exception();
    }
  };
  std::vector<std::thread> threads;
  threads.reserve(count);
  try {
    for (std::size_t i = 1; i < count; ++i) threads.emplace_back(guarded, i);
  } catch (const std::exception&) {
  }
  guarded(0);
  for (std::thread& thread : threads) thread.join();
  if (error != nullptr) std::rethrow_exception(error);
}

}  // namespace rexit::core
