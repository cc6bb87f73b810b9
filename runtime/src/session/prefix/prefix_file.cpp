#include "session/prefix/prefix_file.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "base/status.hpp"
#include "files/half.hpp"
#include "files/mapped_file.hpp"
#include "files/new_file.hpp"
#include "files/safetensors.hpp"
#include "files/sha256.hpp"

namespace rexit::core {
namespace {

constexpr char format[] = "rexit-prefixes", version[] = "1";
constexpr std::size_t digest_bytes = 64, alignment = 8;
constexpr std::int64_t first_user_key = std::int64_t{1} << 62;  // see VectorRows::key

std::string segment_name(std::size_t segment) { return "segment." + std::to_string(segment); }

const char* dtype_of(Element element) {
  return element == Element::float16 ? safetensors_dtype<Half>()
         : element == Element::int8  ? safetensors_dtype<std::int8_t>()
                                     : safetensors_dtype<float>();
}

// `width`: of an int8 row of keys or values. Its last number is an exponent, the lowest of which reads as NaN.
bool all_finite_in(Element element, const std::byte* numbers, std::size_t bytes, std::size_t width) {
  if (element == Element::float16) return all_finite(reinterpret_cast<const Half*>(numbers), bytes / sizeof(Half));
  if (element == Element::int8) {
    const auto* rows = reinterpret_cast<const std::int8_t*>(numbers);
    for (std::size_t at = width - 1; at < bytes; at += width)
      if (rows[at] == INT8_MIN) return false;
    return true;
  }
  const auto* floats = reinterpret_cast<const float*>(numbers);
  return std::all_of(floats, floats + bytes / sizeof(float), [](float number) { return std::isfinite(number); });
}

// A safetensors header. Add tensors in the order of their data.
class Header {
 public:
  explicit Header(const Bundle& bundle) {
    text_ = R"({"__metadata__":{"format":")" + std::string(format) + R"(","version":")" + version + R"(","variant_sha256":")" +
            bundle.variant().sha256 + R"(","vectors_sha256":")" + bundle.vectors_sha256() + "\"}";
  }

  void add(const std::string& name, const char* dtype, const std::vector<std::size_t>& shape, std::size_t bytes) {
    text_ += ",\"" + name + R"(":{"dtype":")" + dtype + R"(","shape":[)";
    for (std::size_t i = 0; i < shape.size(); ++i) text_ += (i != 0 ? "," : "") + std::to_string(shape[i]);
    text_ += R"(],"data_offsets":[)" + std::to_string(end_) + "," + std::to_string(end_ + bytes) + "]}";
    end_ += bytes;
  }

  void write(NewFile& file) {
    text_ += '}';
    text_.resize((text_.size() + alignment - 1) / alignment * alignment, ' ');
    unsigned char size[8];
    for (std::size_t i = 0; i < sizeof size; ++i) size[i] = static_cast<unsigned char>(std::uint64_t{text_.size()} >> 8 * i);
    file.write(size, sizeof size);
    file.write(text_.data(), text_.size());
  }

 private:
  std::string text_;
  std::size_t end_ = 0;
};

// Reads and checks a file of prefixes.
class Reader {
 public:
  Reader(const char* path, const Bundle& bundle) : file_(File(path)), bundle_(bundle) {
    if (metadata_or_empty("format") != format) fail(REXIT_CORRUPT, path, ": is not a file of saved prefixes");
    if (metadata_or_empty("version") != version)
      fail(REXIT_UNSUPPORTED, path, ": version ", metadata_or_empty("version"),
           " of saved prefixes, this version of rexit reads ", version);
    must_match("variant_sha256", bundle.variant().sha256, "another variant or bundle");
    must_match("vectors_sha256", bundle.vectors_sha256(), "a bundle with other vectors");
    const Array<std::uint8_t> digest = file_.array<std::uint8_t>("sha256", {digest_bytes});
    const auto content_bytes = static_cast<std::size_t>(digest.data - file_.data());
    if (content_bytes + digest_bytes != file_.bytes()) fail(REXIT_CORRUPT, path, ": `sha256` is not at the end");
    if (std::memcmp(sha256(file_.data(), content_bytes).data(), digest.data, digest_bytes) != 0)
      fail(REXIT_CORRUPT, path, ": the contents do not match the SHA-256 at the end (damaged)");
  }

  // Views of the file's prefixes, in its order.
  std::vector<PackedPrefix> prefixes() const {
    const Array<std::int64_t> lengths = file_.array<std::int64_t>("lengths", {std::nullopt}),
                              computed = file_.array<std::int64_t>("held", {lengths.size, bundle_.exits()}),
                              tokens = file_.array<std::int64_t>("tokens", {std::nullopt});
    std::vector<PackedPrefix> prefixes(lengths.size);
    const std::int64_t* next = tokens.begin();
    for (std::size_t i = 0; i < prefixes.size(); ++i) {
      const auto max_length =
          std::min<std::int64_t>(tokens.end() - next, static_cast<std::int64_t>(bundle_.variant().max_positions));
      if (lengths[i] < 1 || lengths[i] > max_length) fail_out_of_range("lengths", i, lengths[i], 1, max_length);
      prefixes[i].tokens.assign(next, next + lengths[i]);
      for (const std::int64_t token : prefixes[i].tokens) check_token(token);
      next += lengths[i];
      for (std::size_t k = 0; k < bundle_.exits(); ++k) {
        const std::size_t index = i * bundle_.exits() + k;
        const std::int64_t low = k == 0 ? 1 : 0, high = k == 0 ? lengths[i] : computed[index - 1];
        if (computed[index] < low || computed[index] > high) fail_out_of_range("held", index, computed[index], low, high);
        prefixes[i].computed_tokens.push_back(static_cast<std::size_t>(computed[index]));
      }
    }
    if (next != tokens.end()) fail(REXIT_CORRUPT, file_.path(), ": `tokens` has more than `lengths` says, ", tokens.size);

    for (std::size_t k = 0; k < bundle_.exits(); ++k) {
      const Segment& segment = bundle_.variant().segments[k];
      const std::size_t width = 2 * segment.layers() * bundle_.model().kv_heads * segment.cache_width(bundle_.model());
      assign_rows(
          segment_name(k), segment.cache_dtype, width, prefixes,
          [k](const PackedPrefix& prefix) { return prefix.computed_tokens[k]; },
          [](PackedPrefix& prefix, const std::byte* data) { prefix.segments.push_back(data); });
    }
    assign_rows(
        "hidden", bundle_.variant().segments.front().hidden_dtype, bundle_.model().hidden_size, prefixes,
        [](const PackedPrefix& prefix) { return prefix.computed_tokens.front() - prefix.computed_tokens.back(); },
        [](PackedPrefix& prefix, const std::byte* data) { prefix.hidden = data; });
    return prefixes;
  }

 private:
  // "" for a missing key.
  std::string metadata_or_empty(const char* key) const {
    const auto entry = file_.metadata().find(key);
    return entry != file_.metadata().end() ? entry->second : std::string();
  }

  void must_match(const char* key, const std::string& expected, const char* whose) const {
    if (metadata_or_empty(key) != expected)
      fail(REXIT_MISMATCH, file_.path(), ": was saved from ", whose, ": ", key, " is `", metadata_or_empty(key).substr(0, 12),
           "…`, expected `", expected.substr(0, 12), "…`");
  }

  [[noreturn]] void fail_out_of_range(const char* name, std::size_t index, std::int64_t value, std::int64_t low,
                                      std::int64_t high) const {
    fail(REXIT_CORRUPT, file_.path(), ": `", name, "`[", index, "] is ", value, ", expected ", low, " to ", high);
  }

  void check_token(std::int64_t token) const {
    const Program& program = bundle_.program();
    const std::int64_t end = program.has_vectors() ? program.user_vector : static_cast<std::int64_t>(bundle_.model().vocab_size);
    if (token >= 0 && (token < end || (program.has_user_vector && token >= first_user_key))) return;
    fail(REXIT_CORRUPT, file_.path(), ": `tokens` has ", token, ", expected 0 to ", end - 1,
         program.has_user_vector ? ", or the hash of a user's vector" : "");
  }

  // Divides a tensor's rows of `width` numbers among the prefixes, in their order: calls assign(prefix, data) for rows(prefix)
  // rows.
  template <class Rows, class Assign>
  void assign_rows(const std::string& name, Element element, std::size_t width, std::vector<PackedPrefix>& prefixes,
                   const Rows& rows, const Assign& assign) const {
    std::size_t total = 0;  // at most the number of tokens, so it does not overflow
    for (const PackedPrefix& prefix : prefixes) total += rows(prefix);
    const std::byte* data = element == Element::float16 ? numbers<Half>(name, element, total, width)
                            : element == Element::int8  ? numbers<std::int8_t>(name, element, total, width)
                                                        : numbers<float>(name, element, total, width);
    for (PackedPrefix& prefix : prefixes) {
      assign(prefix, data);
      data += rows(prefix) * width * bytes_of(element);
    }
  }

  template <class T>
  const std::byte* numbers(const std::string& name, Element element, std::size_t rows, std::size_t width) const {
    const Array<T> array = file_.array<T>(name, {rows, width});
    const auto* data = reinterpret_cast<const std::byte*>(array.data);
    if (!all_finite_in(element, data, array.size * sizeof(T), bundle_.model().head_dim + 1))
      fail(REXIT_CORRUPT, file_.path(), ": `", name, "` has numbers that are not finite");
    return data;
  }

  Safetensors file_;
  const Bundle& bundle_;
};

}  // namespace

void save_prefixes(const char* path, const Bundle& bundle, const PrefixCache& cache) {
  std::vector<const Prefix*> prefixes = cache.most_recent_first();
  const PrefixLayout& layout = cache.layout();
  std::vector<std::byte> buffer;  // a part of a prefix
  const auto fill_buffer = [&buffer](const auto& pack) {
    buffer.resize(std::max(buffer.size(), pack(nullptr)));
    return pack(buffer.data());
  };
  const auto is_finite_part = [&](Element element, const auto& pack) {
    const std::size_t bytes = fill_buffer(pack);
    return all_finite_in(element, buffer.data(), bytes, bundle.model().head_dim + 1);
  };
  // A graph may produce keys and values that no reader accepts, and still finite logits.
  const auto is_unreadable = [&](const Prefix* prefix) {
    for (std::size_t k = 0; k < bundle.exits(); ++k)
      if (!is_finite_part(bundle.variant().segments[k].cache_dtype, [&](std::byte* to) { return layout.pack(*prefix, k, to); }))
        return true;
    return !is_finite_part(bundle.variant().segments.front().hidden_dtype,
                           [&](std::byte* to) { return layout.pack_hidden(*prefix, to); });
  };
  prefixes.erase(std::remove_if(prefixes.begin(), prefixes.end(), is_unreadable), prefixes.end());

  std::vector<std::int64_t> lengths, computed, tokens;
  for (const Prefix* prefix : prefixes) {
    lengths.push_back(static_cast<std::int64_t>(prefix->tokens.size()));
    for (const std::size_t count : prefix->computed_tokens) computed.push_back(static_cast<std::int64_t>(count));
    tokens.insert(tokens.end(), prefix->tokens.begin(), prefix->tokens.end());
  }

  Header header(bundle);
  header.add("lengths", "I64", {lengths.size()}, lengths.size() * sizeof(std::int64_t));
  header.add("held", "I64", {lengths.size(), bundle.exits()}, computed.size() * sizeof(std::int64_t));
  header.add("tokens", "I64", {tokens.size()}, tokens.size() * sizeof(std::int64_t));
  const auto add = [&](const std::string& name, Element element, std::size_t width, std::size_t bytes) {
    header.add(name, dtype_of(element), {bytes / (width * bytes_of(element)), width}, bytes);
  };
  std::size_t hidden = 0;
  for (const Prefix* prefix : prefixes) hidden += layout.pack_hidden(*prefix, nullptr);
  add("hidden", bundle.variant().segments.front().hidden_dtype, bundle.model().hidden_size, hidden);
  for (std::size_t k = 0; k < bundle.exits(); ++k) {  // last, since int8 needs no alignment
    const Segment& segment = bundle.variant().segments[k];
    std::size_t bytes = 0;
    for (const Prefix* prefix : prefixes) bytes += layout.pack(*prefix, k, nullptr);
    add(segment_name(k), segment.cache_dtype,
        2 * segment.layers() * bundle.model().kv_heads * segment.cache_width(bundle.model()), bytes);
  }
  header.add("sha256", "U8", {digest_bytes}, digest_bytes);

  NewFile file(path);
  header.write(file);
  for (const auto* numbers : {&lengths, &computed, &tokens}) file.write(numbers->data(), numbers->size() * sizeof(std::int64_t));
  const auto write_part = [&](const auto& pack) {
    const std::size_t bytes = fill_buffer(pack);
    file.write(buffer.data(), bytes);
  };
  for (const Prefix* prefix : prefixes) write_part([&](std::byte* to) { return layout.pack_hidden(*prefix, to); });
  for (std::size_t k = 0; k < bundle.exits(); ++k)
    for (const Prefix* prefix : prefixes) write_part([&](std::byte* to) { return layout.pack(*prefix, k, to); });
  const std::string digest = [&] {
    const MappedFile contents(file.temporary_path());
    return sha256(contents.data(), contents.size());
  }();
  file.write(digest.data(), digest.size());
  file.finish();
}

void load_prefixes(const char* path, const Bundle& bundle, PrefixCache& cache) {
  Reader reader(path, bundle);
  cache.load(reader.prefixes());
}

}  // namespace rexit::core
