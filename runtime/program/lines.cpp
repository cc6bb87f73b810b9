#include "lines.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "commands.hpp"

namespace rexit::program {

namespace {

int stop_pipe[2] = {-1, -1};

}  // namespace

void Lines::stop() noexcept {
  const int before = errno;
  if (write(stop_pipe[1], "", 1) < 0) {  // full: a stop is pending
  }
  errno = before;
}

Lines::Lines(int descriptor, std::size_t max_bytes) : descriptor_(descriptor), max_bytes_(max_bytes) {
  if (fcntl(descriptor, F_GETFD) < 0)  // before the pipe takes its number
    throw Failure(std::string("stdin: cannot be read: ") + std::strerror(errno), other_failure);
  if (::pipe(stop_pipe) != 0) throw Failure(std::string("pipe: ") + std::strerror(errno), other_failure);
  for (const int end : stop_pipe) {  // macOS has no pipe2
    fcntl(end, F_SETFD, FD_CLOEXEC);
    fcntl(end, F_SETFL, O_NONBLOCK);
  }
  struct sigaction action{};
  action.sa_handler = [](int) {
    signal(SIGTERM, SIG_DFL);
    signal(SIGINT, SIG_DFL);
    stop();
  };
  action.sa_flags = SA_RESTART;
  sigaction(SIGTERM, &action, nullptr);
  sigaction(SIGINT, &action, nullptr);
}

Lines::~Lines() {
  signal(SIGTERM, SIG_DFL);
  signal(SIGINT, SIG_DFL);
  close(stop_pipe[0]);
  close(stop_pipe[1]);
}

Lines::Next Lines::next(std::string& line) {
  bool too_long = false;
  for (std::size_t search_from = begin_;;) {
    const std::size_t end = buffer_.find('\n', search_from);
    if (end != buffer_.npos) {
      line.assign(buffer_, begin_, end - begin_);
      begin_ = end + 1;
      ++count_;
      return too_long || line.size() > max_bytes_ ? Next::too_long : Next::line;
    }
    buffer_.erase(0, begin_);
    begin_ = 0;
    if (buffer_.size() > max_bytes_) {
      too_long = true;
      buffer_.clear();
    }
    search_from = buffer_.size();
    const Fill outcome = fill();
    if (outcome == Fill::more) continue;
    // Of a line whose end was not read when the signal came, nothing was asked yet.
    if (outcome == Fill::stopped || (buffer_.empty() && !too_long)) return Next::end;
    buffer_ += '\n';  // the last line has no newline
  }
}

Lines::Fill Lines::fill() {
  pollfd both[2] = {{descriptor_, POLLIN, 0}, {stop_pipe[0], POLLIN, 0}};
  char bytes[1 << 16];
  for (;;) {
    if (poll(both, 2, -1) < 0 && errno != EINTR) break;
    if (both[1].revents != 0) return Fill::stopped;
    if (both[0].revents == 0) continue;
    const ssize_t count = read(descriptor_, bytes, sizeof bytes);
    arrival_ = Clock::now();
    if (count > 0) buffer_.append(bytes, static_cast<std::size_t>(count));
    if (count >= 0) return count > 0 ? Fill::more : Fill::end;
    if (errno != EINTR && errno != EAGAIN) break;
  }
  throw Failure(std::string("stdin: cannot be read: ") + std::strerror(errno), other_failure);
}

}  // namespace rexit::program
