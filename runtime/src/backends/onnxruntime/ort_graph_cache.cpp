#include "backends/onnxruntime/ort_graph_cache.hpp"

#include <fcntl.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>
#include <system_error>
#include <utility>

#include "base/status.hpp"
#include "files/sha256.hpp"

namespace rexit::core {
namespace {

namespace fs = std::filesystem;

// Smaller weights stay in the graph's file.
constexpr char smallest_external[] = "1024";

// The machine and what the kernel says of its first processor; empty if it says nothing. Frequencies and the like change.
std::string processor_text() {
  static const std::set<std::string> lasting = {"vendor_id", "cpu family",      "model",       "model name", "flags",
                                                "Features",  "CPU implementer", "CPU variant", "CPU part",   "CPU revision"};
  std::ifstream file("/proc/cpuinfo");
  std::string text, line;
  while (std::getline(file, line) && !line.empty()) {
    const std::string key = line.substr(0, line.find_first_of("\t:"));
    if (lasting.count(key) != 0) text += line + "\n";
  }
  ::utsname system{};
  if (text.empty() || ::uname(&system) != 0) return {};
  return std::string(system.machine) + "\n" + text;
}

// Otherwise a power failure might leave a complete name with incomplete contents.
void sync(const fs::path& path) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return;
  ::fsync(file);
  ::close(file);
}

std::string segment_name(std::size_t segment) { return "segment-" + std::to_string(segment); }

}  // namespace

GraphCache::GraphCache(const char* folder, const Variant& variant, const std::string& ort_version) {
  if (folder == nullptr) return;
  const std::string processor = processor_text();
  if (processor.empty())
    fail(REXIT_UNSUPPORTED, "options.graph_cache: /proc/cpuinfo does not describe this processor, expected its model");
  const std::string key = variant.sha256 + "\n" + ort_version + "\n" + rexit_version() + "\n" + processor;
  const std::string digest = sha256(reinterpret_cast<const unsigned char*>(key.data()), key.size());
  entry_ = std::string(folder) + "/" + digest.substr(0, 32);
}

GraphCache::GraphCache(GraphCache&& other) noexcept
    : entry_(std::exchange(other.entry_, {})), temporary_(std::exchange(other.temporary_, {})) {}

GraphCache::~GraphCache() {
  std::error_code ignored;
  if (!temporary_.empty()) fs::remove_all(temporary_, ignored);
}

bool GraphCache::has_entry() const {
  std::error_code ignored;
  return !entry_.empty() && fs::is_directory(entry_, ignored);
}

std::string GraphCache::graph(std::size_t segment) const { return entry_ + "/" + segment_name(segment) + ".onnx"; }

void GraphCache::drop_entry(const std::string& reason) {
  log(REXIT_LOG_WARNING, entry_ + ": cannot be loaded and is written again: " + reason);
  std::error_code ignored;
  fs::remove_all(entry_, ignored);
}

bool GraphCache::begin_entry() {
  if (entry_.empty()) return false;
  std::error_code error;
  fs::create_directories(fs::path(entry_).parent_path(), error);
  std::string name = entry_ + ".XXXXXX";
  if (::mkdtemp(name.data()) == nullptr) {
    abandon_entry(std::strerror(errno));
    return false;
  }
  temporary_ = name;
  return true;
}

void GraphCache::write_segment(Ort::SessionOptions& options, std::size_t segment) const {
  const std::string name = segment_name(segment);
  options.SetOptimizedModelFilePath((temporary_ + "/" + name + ".onnx").c_str());
  options.AddConfigEntry("session.optimized_model_external_initializers_file_name", (name + ".weights").c_str());
  options.AddConfigEntry("session.optimized_model_external_initializers_min_size_in_bytes", smallest_external);
}

void GraphCache::finish_entry() {
  std::error_code error;
  for (const fs::directory_entry& file : fs::directory_iterator(temporary_, error)) sync(file.path());
  fs::rename(temporary_, entry_, error);  // fails if another process was faster
  if (!error) temporary_.clear();
}

void GraphCache::abandon_entry(const std::string& reason) {
  log(REXIT_LOG_WARNING, entry_ + ": cannot be written, so graphs are optimized again at the next open: " + reason);
  std::error_code ignored;
  if (!temporary_.empty()) fs::remove_all(temporary_, ignored);
  temporary_.clear();
}

}  // namespace rexit::core
