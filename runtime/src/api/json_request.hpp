// A request in JSON.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "rexit/rexit.h"

namespace rexit::core {

// Reads a JSON text into a rexit_request. Whether the bundle knows the ids and inputs is read_request()'s to check.
class JsonRequest {
 public:
  // Reuses the memory of the request before. A message begins with the field's path. Throws REXIT_INVALID_ARGUMENT.
  void read(std::string_view text);

  // Token ids for the request's texts, as in rexit_json_options. Throws REXIT_INVALID_ARGUMENT for a text that the request does
  // not have.
  void set_texts(const rexit_input* texts, std::size_t count, std::size_t entry_size);

  // Valid until the next read(). `deadline_us` counts from the request's arrival; 0: none.
  const rexit_request& request() const noexcept { return request_; }
  // `id` as JSON; empty: the request has none.
  const std::string& id() const noexcept { return id_; }

  // Releases its memory if that is more than `max_bytes`. Ends request().
  void trim(std::size_t max_bytes) noexcept;
  // In bytes.
  std::size_t memory() const noexcept;

 private:
  class Reader;

  rexit_request request_{};
  rexit_tokens tokens_{};
  std::string id_;
  std::string texts_;  // all ids, names and texts, each with a NUL behind it; never longer than the JSON
  rexit_id user_{};
  std::vector<rexit_id> items_, recent_;
  std::vector<std::uint8_t> liked_;
  std::vector<rexit_input> inputs_;
  std::vector<std::string_view> input_names_;  // those of null values, too
  std::vector<std::size_t> input_tokens_at_;   // [inputs_]: where an input's tokens begin in `input_tokens_`; 0: it has none
  std::vector<std::int32_t> input_tokens_, prefix_, candidate_tokens_;
  std::vector<std::size_t> candidate_counts_;
  std::vector<float> scores_;
};

}  // namespace rexit::core
