#include "audit_log.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <utility>

#include "failure.hpp"
#include "output.hpp"

namespace rexit::program {

namespace {

using nlohmann::ordered_json;

// A line that a killed service left without its end.
void cut_partial_line(int file) {
  struct stat status{};
  if (fstat(file, &status) != 0) return;
  off_t end = status.st_size;
  for (char byte = 0; end > 0 && pread(file, &byte, 1, end - 1) == 1 && byte != '\n';) --end;
  if (end != status.st_size && ftruncate(file, end) != 0) throw Failure(std::strerror(errno));
}

// Appends the line, or nothing: then false, with errno. A full disk takes a part of a line, then refuses the rest.
bool append(int file, const std::string& line) {
  struct stat before{};
  if (fstat(file, &before) != 0) return false;
  for (std::size_t written = 0; written < line.size();) {
    const ssize_t count = ::write(file, line.data() + written, line.size() - written);
    if (count < 0) {
      const int error = errno;
      if (ftruncate(file, before.st_size) == 0) errno = error;
      return false;
    }
    written += static_cast<std::size_t>(count);
  }
  return true;
}

double seconds_since_1970() {
  const auto since = std::chrono::system_clock::now().time_since_epoch();
  return static_cast<double>(std::chrono::duration_cast<std::chrono::milliseconds>(since).count()) / 1000;
}

// The test's unit, and what names the candidates: of a request by token ids, a digest of the prefix, and their places.
std::pair<ordered_json, ordered_json> slate_of(const ordered_json& request) {
  if (const auto user = request.find("user"); user != request.end() && !user->is_null()) return {*user, request["items"]};
  std::uint64_t digest = 0xcbf29ce484222325;  // FNV-1a
  for (const char byte : request.value("prefix", ordered_json()).dump())
    digest = (digest ^ static_cast<unsigned char>(byte)) * 0x100000001b3;
  char name[18];
  std::snprintf(name, sizeof name, "#%016llx", static_cast<unsigned long long>(digest));
  ordered_json places = ordered_json::array();
  while (places.size() < request["candidates"].size()) places.push_back(places.size());
  return {name, places};
}

}  // namespace

AuditLog::AuditLog(const std::string& path, const Bundle& bundle)
    : path_(path),
      policy_sha256_(bundle.info().policy_sha256),
      file_(open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600)) {
  if (file_ < 0) throw Failure(path + ": cannot be written: " + std::strerror(errno));
  try {
    if (flock(file_, LOCK_EX | LOCK_NB) != 0)
      throw Failure(path + ": another service writes it, expected a file of its own for each");
    cut_partial_line(file_);
  } catch (...) {
    close(file_);
    throw;
  }
}

AuditLog::~AuditLog() { close(file_); }

void AuditLog::write(const std::string& request, const Audit& audit) {
  const auto [user, items] = slate_of(ordered_json::parse(request));
  const std::string line = on_one_line({{"time", seconds_since_1970()},
                                        {"user", user},
                                        {"items", items},
                                        {"policy", audit.policy_c},
                                        {"log_odds", audit.full_log_odds},
                                        {"exits", audit.exits},
                                        {"rule", 0},
                                        {"policy_sha256", policy_sha256_}}) +
                           "\n";
  const std::lock_guard lock(mutex_);
  if (!append(file_, line))
    std::fprintf(stderr, "rexit-run: warning: %s: an audited slate is not in it: %s\n", path_.c_str(), std::strerror(errno));
}

}  // namespace rexit::program
