// Lines of bounded length from a file descriptor, until its end or a signal.
#pragma once

#include <cstddef>
#include <string>

namespace rexit::program {

// From its construction on SIGTERM and SIGINT end the reading; a second one ends the process. One at a time in a process.
class Lines {
 public:
  enum class Next { line, too_long, end };

  Lines(int descriptor, std::size_t longest);
  ~Lines();
  Lines(const Lines&) = delete;
  Lines& operator=(const Lines&) = delete;

  // The next line, without its end. A line with more than `longest` bytes is skipped: too_long. Throws Failure if reading fails.
  Next next(std::string& line);
  // How many there were so far, those that were too long included.
  std::size_t count() const noexcept { return count_; }
  // From another thread, too: as if a signal had come.
  static void stop() noexcept;

 private:
  bool fill();  // false: the end, or a signal

  int descriptor_;
  std::size_t longest_, begin_ = 0, count_ = 0;
  std::string buffer_;
};

}  // namespace rexit::program
