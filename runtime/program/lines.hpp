// Lines of bounded length from a file descriptor, until its end or a signal.
#pragma once

#include <chrono>
#include <cstddef>
#include <string>

namespace rexit::program {

// While it exists, SIGTERM and SIGINT end the reading: lines that were read come still. A second signal ends the process. At most
// one per process at a time.
class Lines {
 public:
  using Clock = std::chrono::steady_clock;
  enum class Next { line, too_long, end };

  Lines(int descriptor, std::size_t max_bytes);
  ~Lines();
  Lines(const Lines&) = delete;
  Lines& operator=(const Lines&) = delete;

  // Reads the next line, without its newline. Skips a line of more than `max_bytes` bytes: too_long. Throws Failure if reading
  // fails.
  Next next(std::string& line);
  // Number of lines so far, including those that were too long.
  std::size_t count() const noexcept { return count_; }
  // When the last line's end was read.
  Clock::time_point arrival() const noexcept { return arrival_; }
  // Acts as a signal does. Any thread may call it.
  static void stop() noexcept;

 private:
  enum class Fill { more, end, stopped };
  Fill fill();  // only without a whole line in the buffer: all of its lines have one arrival

  int descriptor_;
  std::size_t max_bytes_, begin_ = 0, count_ = 0;
  std::string buffer_;
  Clock::time_point arrival_;
};

}  // namespace rexit::program
