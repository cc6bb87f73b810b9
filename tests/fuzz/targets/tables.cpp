// A single table of a catalog. Its metadata has `table`, the kind, and the number of rows.
#include <algorithm>
#include <memory>
#include <new>
#include <optional>

#include "bundle/catalog/catalog.hpp"
#include "target.hpp"

namespace {

using rexit::core::Ids;
using rexit::core::Row;

// Looks up existing and missing ids.
void look_up(const Ids& ids) {
  ids.check();
  for (std::size_t row = 0; row < ids.size(); ++row) {
    const std::string text = ids.text(static_cast<Row>(row));
    const auto match =
        ids.are_strings() ? ids.find(std::string_view(text).substr(1, text.size() - 2)) : ids.find(std::stoll(text));
    REXIT_PROMISE(match && static_cast<std::size_t>(*match) == row);
  }
  for (const std::int64_t number : {INT64_MIN, INT64_MAX}) REXIT_PROMISE(!ids.are_strings() || !ids.find(number));
  for (const char* text : {"", "item", "\xff\xff"}) REXIT_PROMISE(ids.are_strings() || !ids.find(std::string_view(text)));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace rexit::core;
  // At the alignment of a mapped file, and exactly as large, so that the sanitizer detects reads beyond it.
  constexpr auto alignment = std::align_val_t(64);
  const auto release = [](unsigned char* memory) { ::operator delete(memory, alignment); };
  const std::unique_ptr<unsigned char, decltype(release)> table_data(
      static_cast<unsigned char*>(::operator new(std::max<std::size_t>(size, 1), alignment)), release);
  std::copy_n(data, size, table_data.get());
  const auto table_file = [&] { return File("table", table_data.get(), size); };
  rexit::fuzz::refused([&] {
    std::string kind, table;
    std::size_t count = 0, interactions = 0, dim = 1;
    std::optional<std::size_t> probes;
    {
      const Safetensors file{table_file()};
      for (const auto& [key, value] : file.metadata()) {
        const std::size_t number = std::strtoull(value.c_str(), nullptr, 10) & 0x7fffffff;
        if (key == "table") table = value;
        if (key == "kind") kind = value;
        if (key == "count") count = number;
        if (key == "interactions") interactions = number;
        if (key == "dim") dim = std::max<std::size_t>(number, 1);
        if (key == "probes") probes = number;
      }
    }
    // Opening reads no row: a row's values are in bounds, or reading it is refused.
    const auto in = [](std::size_t value, std::size_t limit) { REXIT_PROMISE(value < limit); };
    const auto within = [](Span span, std::size_t total) { REXIT_PROMISE(span.begin <= span.end && span.end <= total); };
    if (table == "users") {
      const std::size_t item_count = 16;
      const Users users(table_file(), kind, count, interactions, dim, item_count, probes);
      rexit::fuzz::refused([&] { look_up(users.ids); });
      for (std::size_t list = 0; users.lists && list < users.lists->size(); ++list)
        rexit::fuzz::refused([&] {
          const Span span = users.lists->list(users.table, list);
          within(span, users.ids.size());
          for (std::size_t i = span.begin; i < span.end; ++i)
            in(static_cast<std::size_t>(users.lists->user(users.table, i)), count);
        });
      if (users.lists) rexit::fuzz::refused([&] { users.lists->check(users.table); });
      for (std::size_t row = 0; row < users.ids.size(); ++row) {
        const Row user = static_cast<Row>(row);
        rexit::fuzz::refused([&] {
          const Span span = users.history(user);
          within(span, users.history_items.size);
          for (std::size_t i = span.begin; i < span.end; ++i) {
            in(static_cast<std::size_t>(users.history_item(i)), item_count);
            users.liked(i);
            const std::size_t at = users.by_item(span, i - span.begin);
            REXIT_PROMISE(at >= span.begin && at < span.end);
          }
        });
        rexit::fuzz::refused([&] {
          for (std::size_t n = 0; n < users.neighbours; ++n) in(static_cast<std::size_t>(users.similar_user(user, n)), count);
        });
      }
    } else if (table == "items") {
      const Items items(table_file(), kind, count, interactions, dim);
      rexit::fuzz::refused([&] { look_up(items.ids); });
      for (std::size_t row = 0; row < items.ids.size(); ++row) {
        const Row item = static_cast<Row>(row);
        rexit::fuzz::refused([&] {
          const Span span = items.ratings(item);
          within(span, items.rating_times.size);
          for (std::size_t n = 0; n <= span.size(); ++n) REXIT_PROMISE(items.likes(span, n) <= n);
        });
      }
    } else {
      const Pieces pieces(table_file(), count, 64);
      for (std::size_t row = 0; row + 1 < pieces.offsets.size; ++row)
        rexit::fuzz::refused([&] {
          const Span span = pieces.tokens_of(static_cast<Piece>(row));
          within(span, pieces.tokens.size);
          for (std::size_t i = span.begin; i < span.end; ++i) in(static_cast<std::size_t>(pieces.token(i)), 64);
        });
    }
  });
  return 0;
}
