// word_pieces.safetensors: a WordPiece tokenizer as tables, memory-mapped. The exporter asks the tokenizer itself what becomes of
// each code point, so the tables are exact whatever version of Unicode it knows; exporter/word_pieces.py writes them where they
// are. Opening checks shapes and types; what is read is checked when it is read.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/clock.hpp"
#include "files/safetensors.hpp"

namespace rexit::core {

// Token ids of texts, one text after the other.
struct TextTokens {
  std::vector<std::int32_t> tokens;
  std::vector<std::size_t> ends;  // of each text in `tokens`
  std::string word;               // memory for the word that is being divided

  void clear() noexcept {
    tokens.clear();
    ends.clear();
  }
};

class WordPieces {
 public:
  // `most`: tokens of a pair. `only_second`: whether the document alone is cut.
  WordPieces(File file, std::size_t most, bool only_second);

  std::size_t bytes() const noexcept { return table_.bytes(); }
  std::size_t special() const noexcept { return before_.size + between_.size + after_.size; }  // tokens of a pair
  void check_unchanged() const { table_.check_unchanged(); }

  // Appends the tokens of a text, which is valid UTF-8, without special ones around it. Throws REXIT_CORRUPT, REXIT_DEADLINE and
  // REXIT_CANCELLED.
  void append(std::string_view text, TextTokens& out, const Deadline& deadline) const;

  // Appends a query and a document with what stands around them, cut to the length of a pair. Returns the number of tokens.
  // Throws REXIT_TOO_LONG if the query leaves no room for a document.
  std::size_t append_pair(const std::int32_t* query, std::size_t query_size, const std::int32_t* document,
                          std::size_t document_size, std::vector<std::int32_t>& out) const;

 private:
  void append_words(std::string_view text, TextTokens& out, const Deadline& deadline) const;
  void append_pieces(std::string_view word, std::size_t characters, std::vector<std::int32_t>& out) const;
  // The id of the piece `begin` + `rest`; -1: there is none.
  std::int32_t find(std::uint64_t hash, std::string_view begin, std::string_view rest) const;
  // Entry i of a list whose entries end at `ends`.
  std::pair<std::size_t, std::size_t> range(std::size_t size, const Array<std::int32_t>& ends, std::size_t i,
                                            const char* name) const;
  std::string_view slice(const Array<std::uint8_t>& bytes, const Array<std::int32_t>& ends, std::size_t i,
                         const char* name) const;
  [[noreturn]] void fail_corrupt(const char* name, std::size_t index) const;

  Safetensors table_;
  Array<std::int32_t> pages_, characters_;  // what becomes of a code point c: characters[pages[c / 256], c % 256]
  Array<std::int32_t> texts_, text_ends_;   // code points that stand in for one; 0: a word ends
  Array<std::uint8_t> pieces_;              // UTF-8, by token id; those inside a word begin with `##`
  Array<std::int32_t> piece_ends_;
  Array<std::int32_t> slots_;  // token ids by the pieces' FNV-1a; -1: none
  Array<std::uint8_t> added_;  // texts that are a token wherever they stand
  Array<std::int32_t> added_ends_, added_ids_;
  Array<std::int32_t> before_, between_, after_;  // special tokens around query and document
  // The unknown token; characters of a word and bytes of a piece at most; what is added to the ids of a query and a document.
  std::array<std::int32_t, 5> numbers_{};
  std::size_t most_;
  bool only_second_;
};

}  // namespace rexit::core
