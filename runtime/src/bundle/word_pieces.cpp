#include "bundle/word_pieces.hpp"

#include <algorithm>
#include <array>
#include <utility>

#include "base/status.hpp"

namespace rexit::core {
namespace {

constexpr std::size_t blocks = 0x110000 / 256, max_added = 16, max_piece = 256, max_probes = 64;
constexpr std::size_t check_interval = 4096;
constexpr std::int32_t max_id = 1 << 30;
constexpr std::uint64_t fnv_basis = 0xcbf29ce484222325, fnv_prime = 0x100000001b3;
constexpr std::string_view inside = "##";

// What becomes of a code point; higher numbers are texts that stand in for it, from `text_from` on.
enum Becomes : std::int32_t { itself, a_word_of_its_own, end_of_a_word, nothing, text_from };

constexpr std::uint64_t hashed(std::uint64_t hash, char byte) noexcept {
  return (hash ^ static_cast<unsigned char>(byte)) * fnv_prime;
}

// Takes a code point from the beginning of `text`, which is valid UTF-8 and not empty.
std::uint32_t next_code_point(std::string_view& text) noexcept {
  const auto first = static_cast<unsigned char>(text.front());
  const std::size_t size = std::min<std::size_t>(text.size(), first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4);
  std::uint32_t code = size == 1 ? first & 0x7fU : first & (0xffU >> (size + 1));
  for (std::size_t i = 1; i < size; ++i) code = code << 6 | (static_cast<unsigned char>(text[i]) & 0x3fU);
  text.remove_prefix(size);
  return std::min<std::uint32_t>(code, 0x10ffff);
}

void append_code_point(std::uint32_t code, std::string& out) {
  if (code < 0x80) {
    out += static_cast<char>(code);
    return;
  }
  const unsigned tail = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
  out += static_cast<char>((0xff00U >> (tail + 1) & 0xffU) | code >> (6 * tail));
  for (unsigned i = tail; i-- > 0;) out += static_cast<char>(0x80U | (code >> (6 * i) & 0x3fU));
}

}  // namespace

WordPieces::WordPieces(File file, std::size_t most, bool only_second)
    : table_(std::move(file)),
      pages_(table_.array<std::int32_t>("pages", {blocks})),
      characters_(table_.array<std::int32_t>("characters", {std::nullopt, 256})),
      texts_(table_.array<std::int32_t>("texts", {std::nullopt})),
      text_ends_(table_.array<std::int32_t>("texts.ends", {std::nullopt})),
      pieces_(table_.array<std::uint8_t>("pieces", {std::nullopt})),
      piece_ends_(table_.array<std::int32_t>("pieces.ends", {std::nullopt})),
      slots_(table_.array<std::int32_t>("slots", {std::nullopt})),
      added_(table_.array<std::uint8_t>("added", {std::nullopt})),
      added_ends_(table_.array<std::int32_t>("added.ends", {std::nullopt})),
      added_ids_(table_.array<std::int32_t>("added.ids", {added_ends_.size})),
      before_(table_.array<std::int32_t>("before", {std::nullopt})),
      between_(table_.array<std::int32_t>("between", {std::nullopt})),
      after_(table_.array<std::int32_t>("after", {std::nullopt})),
      most_(most),
      only_second_(only_second) {
  // Copied: of a file that is changed while it is open, sizes must not outgrow their arrays.
  const auto numbers = table_.array<std::int32_t>("numbers", {5});
  std::copy(numbers.begin(), numbers.end(), numbers_.begin());
  const Array<std::int32_t> copied{numbers_.data(), numbers_.size()};
  if (slots_.size == 0 || (slots_.size & (slots_.size - 1)) != 0) fail_corrupt("slots", slots_.size);
  if (added_ids_.size > max_added) fail_corrupt("added.ids", added_ids_.size);
  const std::pair<const char*, const Array<std::int32_t>*> lists[] = {
      {"added.ids", &added_ids_}, {"before", &before_}, {"between", &between_}, {"after", &after_}, {"numbers", &copied}};
  for (const auto& [name, ids] : lists)
    for (std::size_t i = 0; i < ids->size; ++i)
      if ((*ids)[i] < 0 || (*ids)[i] >= max_id) fail_corrupt(name, i);
  if (numbers_[2] > static_cast<std::int32_t>(max_piece)) fail_corrupt("numbers", 2);
}

void WordPieces::append(std::string_view text, TextTokens& out, const Deadline& deadline) const {
  // Where each added token comes next. Of two at one place the longer one is the token.
  std::array<std::size_t, max_added> next{};
  std::array<std::string_view, max_added> added;
  for (std::size_t i = 0; i < added_ids_.size; ++i) next[i] = text.find(added[i] = slice(added_, added_ends_, i, "added"));
  std::size_t begin = 0;
  while (true) {
    std::size_t first = max_added, at = std::string_view::npos;
    for (std::size_t i = 0; i < added_ids_.size; ++i) {
      if (next[i] != std::string_view::npos && next[i] < begin) next[i] = text.find(added[i], begin);
      if (next[i] < at || (next[i] == at && first != max_added && added[i].size() > added[first].size())) at = next[first = i];
    }
    append_words(text.substr(begin, at - begin), out, deadline);
    if (at == std::string_view::npos) break;
    out.tokens.push_back(added_ids_[first]);
    begin = at + std::max<std::size_t>(added[first].size(), 1);
    if (begin > text.size()) break;
  }
  out.ends.push_back(out.tokens.size());
}

void WordPieces::append_words(std::string_view text, TextTokens& out, const Deadline& deadline) const {
  std::string& word = out.word;
  word.clear();
  std::size_t characters = 0;
  const auto end_word = [&] {
    if (!word.empty()) append_pieces(word, characters, out.tokens);
    word.clear();
    characters = 0;
  };
  const auto add = [&](std::uint32_t code) {
    append_code_point(code, word);
    ++characters;
  };
  std::size_t unchecked = 0;  // code points since the last look at the clock
  while (!text.empty()) {
    if (++unchecked == check_interval) {
      deadline.check("tokenizing");
      unchecked = 0;
    }
    const std::uint32_t code = next_code_point(text);
    const std::int32_t page = pages_[code >> 8];
    if (page < 0 || static_cast<std::size_t>(page) >= characters_.size / 256) fail_corrupt("pages", code >> 8);
    const std::int32_t becomes = characters_[256 * static_cast<std::size_t>(page) + (code & 255)];
    if (becomes == end_of_a_word || becomes == a_word_of_its_own) end_word();
    if (becomes == itself || becomes == a_word_of_its_own) add(code);
    if (becomes == a_word_of_its_own) end_word();
    if (becomes < text_from) {
      if (becomes < 0) fail_corrupt("characters", code);
      continue;
    }
    const auto number = static_cast<std::size_t>(becomes - text_from);
    const auto [from, to] = range(texts_.size, text_ends_, number, "texts.ends");
    for (std::size_t i = from; i < to; ++i)
      if (texts_[i] == 0)
        end_word();
      else if (texts_[i] > 0 && texts_[i] <= 0x10ffff)
        add(static_cast<std::uint32_t>(texts_[i]));
      else
        fail_corrupt("texts", i);
  }
  end_word();
}

void WordPieces::append_pieces(std::string_view word, std::size_t characters, std::vector<std::int32_t>& out) const {
  const std::size_t begin = out.size();
  const auto longest = static_cast<std::size_t>(numbers_[2]);
  bool is_known = characters <= static_cast<std::size_t>(numbers_[1]);
  for (std::size_t at = 0; is_known && at < word.size();) {
    std::array<std::uint64_t, max_piece> hashes;  // of each beginning
    std::uint64_t hash = fnv_basis;
    if (at != 0)
      for (const char byte : inside) hash = hashed(hash, byte);
    std::size_t size = std::min(longest, word.size() - at);
    for (std::size_t i = 0; i < size; ++i) hashes[i] = hash = hashed(hash, word[at + i]);
    std::int32_t id = -1;
    for (; size != 0; --size)
      if ((id = find(hashes[size - 1], at == 0 ? std::string_view() : inside, word.substr(at, size))) >= 0) break;
    is_known = size != 0;
    at += size;
    out.push_back(id);
  }
  if (is_known) return;
  out.resize(begin);
  out.push_back(numbers_[0]);
}

std::int32_t WordPieces::find(std::uint64_t hash, std::string_view begin, std::string_view rest) const {
  const std::size_t mask = slots_.size - 1;
  for (std::size_t probe = 0; probe < std::min(max_probes, slots_.size); ++probe) {
    const std::int32_t id = slots_[(static_cast<std::size_t>(hash) + probe) & mask];
    if (id < 0) return -1;
    const std::string_view piece = slice(pieces_, piece_ends_, static_cast<std::size_t>(id), "pieces");
    if (piece.size() == begin.size() + rest.size() && piece.substr(0, begin.size()) == begin &&
        piece.substr(begin.size()) == rest)
      return id;
  }
  return -1;
}

// As the tokenizer's own truncation: `longest_first` takes from the longer one until both are as long, then from both.
std::size_t WordPieces::append_pair(const std::int32_t* query, std::size_t query_size, const std::int32_t* document,
                                    std::size_t document_size, std::vector<std::int32_t>& out) const {
  const std::size_t room = most_ - std::min(most_, special());
  if (only_second_ && query_size >= room)
    fail(REXIT_TOO_LONG, "the query is too long: it has ", query_size, " tokens, a pair at most ", most_, ", of which ",
         special(), " are special");
  if (query_size + document_size > room) {
    if (only_second_) {
      document_size = room - query_size;
    } else {
      std::size_t& shorter = query_size > document_size ? document_size : query_size;
      std::size_t& longer = query_size > document_size ? query_size : document_size;
      longer = shorter > room ? shorter : std::max(shorter, room - shorter);
      if (shorter + longer > room) {
        shorter = room / 2;
        longer = shorter + room % 2;
      }
    }
  }
  const std::size_t begin = out.size();
  const auto append = [&out](const std::int32_t* ids, std::size_t count, std::int32_t shift) {
    for (std::size_t i = 0; i < count; ++i) out.push_back(ids[i] + shift);
  };
  append(before_.data, before_.size, 0);
  append(query, query_size, numbers_[3]);
  append(between_.data, between_.size, 0);
  append(document, document_size, numbers_[4]);
  append(after_.data, after_.size, 0);
  return out.size() - begin;
}

std::pair<std::size_t, std::size_t> WordPieces::range(std::size_t size, const Array<std::int32_t>& ends, std::size_t i,
                                                      const char* name) const {
  const std::int32_t begin = i == 0 || i >= ends.size ? 0 : ends[i - 1];
  if (i >= ends.size || begin < 0 || ends[i] < begin || static_cast<std::size_t>(ends[i]) > size) fail_corrupt(name, i);
  return {static_cast<std::size_t>(begin), static_cast<std::size_t>(ends[i])};
}

std::string_view WordPieces::slice(const Array<std::uint8_t>& bytes, const Array<std::int32_t>& ends, std::size_t i,
                                   const char* name) const {
  const auto [begin, end] = range(bytes.size, ends, i, name);
  return {reinterpret_cast<const char*>(bytes.data) + begin, end - begin};
}

void WordPieces::fail_corrupt(const char* name, std::size_t index) const {
  fail(REXIT_CORRUPT, table_.path(), ": `", name, "` at ", index, " is out of range");
}

}  // namespace rexit::core
