#include "api/json_answer.hpp"

#include <charconv>
#include <string_view>
#include <type_traits>

namespace rexit::core {
namespace {

constexpr char hexadecimal[] = "0123456789abcdef";

// Writes JSON text by hand: a tree of values would take longer than all the rest of an answer.
class Writer {
 public:
  explicit Writer(std::string& out) : out_(out) {}

  // Text that is JSON already.
  void raw(std::string_view json) { out_ += json; }

  // Bools, integers, and floating-point numbers, which are finite, as the shortest text that reads as the same double.
  template <class Value>
  void value(Value value) {
    if constexpr (std::is_same_v<Value, bool>) {
      out_ += value ? "true" : "false";
    } else {
      using Number = std::conditional_t<std::is_floating_point_v<Value>, double, Value>;
      char text[32];
      out_.append(text, std::to_chars(text, text + sizeof text, static_cast<Number>(value)).ptr);
    }
  }

  // A string of valid UTF-8.
  void string(std::string_view text) {
    out_ += '"';
    for (const char character : text) {
      const auto byte = static_cast<unsigned char>(character);
      if (byte < 0x20) {
        ((out_ += "\\u00") += hexadecimal[byte >> 4]) += hexadecimal[byte & 15];
        continue;
      }
      if (character == '"' || character == '\\') out_ += '\\';
      out_ += character;
    }
    out_ += '"';
  }

  void id(const rexit_id& id) {
    if (id.text != nullptr)
      string(id.text);
    else
      value(id.number);
  }

 private:
  std::string& out_;
};

class ScoreWriter {
 public:
  ScoreWriter(const JsonRequest& request, const Session& session, Writer& out)
      : request_(request.request()), bundle_(session.loaded().bundle), out_(out) {}

  void write(const Score& score) {
    const Answer& answer = score.answer;
    const float shift = bundle_.policy().prior_shift;
    out_.raw("{\"item\":");
    if (request_.tokens == nullptr)
      out_.id(request_.items[score.item]);
    else
      out_.value(score.item);
    out_.raw(",\"probability\":");
    number_or_null(answer, probability(answer.calibrated, shift));
    out_.raw(",\"log_odds\":");
    number_or_null(answer, answer.log_odds);
    out_.raw(",\"exit\":");
    number_or_null(answer, answer.exit);
    out_.raw(",\"layers\":");
    out_.value(answer.has_exit() ? bundle_.depth(answer.exit) : 0);
    out_.raw(",\"cut_short\":");
    out_.value(answer.cut_short);
    out_.raw("}");
  }

 private:
  template <class Number>
  void number_or_null(const Answer& answer, Number number) {
    if (answer.has_exit())
      out_.value(number);
    else
      out_.raw("null");
  }

  const rexit_request& request_;
  const Bundle& bundle_;
  Writer& out_;
};

}  // namespace

void write_answer(const JsonRequest& request, const Session& session, const std::vector<Score>& scores, const rexit_stats& stats,
                  std::int64_t waited_us, std::string& text) {
  text.clear();
  Writer out(text);
  const bool has_ids = request.request().tokens == nullptr;
  out.raw("{");
  if (!request.id().empty()) {
    out.raw("\"id\":");
    out.raw(request.id());
    out.raw(",");
  }
  if (has_ids) {
    out.raw("\"user\":");
    out.id(*request.request().user);
    out.raw(",");
  }
  out.raw("\"variant\":");
  out.string(session.loaded().bundle.variant().name);
  if (has_ids) {
    out.raw(",\"known\":");
    out.value(stats.known_user != 0);
  }
  out.raw(",\"scores\":[");
  ScoreWriter writer(request, session, out);
  for (const Score& score : scores) {
    if (&score != &scores.front()) out.raw(",");
    writer.write(score);
  }
  out.raw("],\"stats\":{");
  const auto number = [&](const char* key, auto value) {
    out.raw(key);
    out.value(value);
  };
  number("\"prefix_tokens\":", stats.prefix_tokens);
  number(",\"prefix_tokens_reused\":", stats.prefix_tokens_reused);
  number(",\"candidate_tokens\":", stats.candidate_tokens);
  number(",\"candidate_layers\":", stats.candidate_layers);
  number(",\"prefix_layers\":", stats.prefix_layers);
  number(",\"retrieval_us\":", stats.retrieval_us);
  number(",\"prefix_us\":", stats.prefix_us);
  number(",\"slate_us\":", stats.slate_us);
  number(",\"total_us\":", stats.total_us);
  number(",\"queue_us\":", waited_us);
  out.raw("}}");
}

}  // namespace rexit::core
