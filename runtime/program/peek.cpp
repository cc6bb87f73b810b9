#include "peek.hpp"

#include <functional>

namespace rexit::program {

namespace {

using nlohmann::json;

class Reader final : public json::json_sax_t {
 public:
  explicit Reader(Peek& peek) : peek_(peek) {}

  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(json::number_integer_t value) override { return read(value); }
  bool number_unsigned(json::number_unsigned_t value) override { return read(value); }
  bool number_float(json::number_float_t value, const json::string_t&) override { return read(value); }
  bool string(json::string_t& value) override { return read(value); }
  bool binary(json::binary_t&) override { return true; }
  bool start_object(std::size_t) override { return ++depth_, true; }
  bool end_object() override { return --depth_, true; }
  bool start_array(std::size_t) override { return ++depth_, true; }
  bool end_array() override { return --depth_, true; }
  bool key(json::string_t& name) override {
    if (depth_ == 1) key_ = name;
    return true;
  }
  bool parse_error(std::size_t, const std::string&, const json::exception&) override { return false; }

 private:
  template <class Value>
  bool read(const Value& value) {
    if (depth_ == 1 && key_ == "id") peek_.id = value;
    if ((depth_ == 1 && key_ == "user") || (depth_ == 2 && key_ == "prefix"))
      peek_.prefix_owner = peek_.prefix_owner * 31 + std::hash<Value>()(value);
    return true;
  }

  Peek& peek_;
  std::size_t depth_ = 0;
  std::string key_;  // of the outermost object
};

}  // namespace

Peek peek(const std::string& line) {
  Peek peek;
  Reader reader(peek);
  json::sax_parse(line, &reader);
  return peek;
}

}  // namespace rexit::program
