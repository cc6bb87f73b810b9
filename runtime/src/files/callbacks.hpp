// A bundle whose files a program provides: from an encrypted store, or from wherever it has them.
#pragma once

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "files/source.hpp"
#include "rexit/rexit.h"

namespace rexit::core {

// As in rexit_source, which documents the functions.
struct Callbacks {
  void* context;
  rexit_status (*get_size)(void* context, const char* path, std::size_t* bytes_out);
  rexit_status (*read)(void* context, const char* path, void* buffer, std::size_t bytes);
};

class CallbackSource final : public Source {
 public:
  CallbackSource(std::string name, const Callbacks& callbacks) : Source(std::move(name)), callbacks_(callbacks) {}

  bool has(const std::string& path) const override { return size_of(path).has_value(); }
  File open(const std::string& path) const override;
  void check_file(const std::string& path, std::size_t bytes) const override;
  std::vector<std::string> folders(const std::string&) const override { return {}; }  // the program is not asked for lists

 private:
  // Nullopt if there is no such file.
  std::optional<std::size_t> size_of(const std::string& path) const;
  std::size_t required_size(const std::string& path) const;

  Callbacks callbacks_;
};

}  // namespace rexit::core
