// Calls each kernel between begin_count() and end_count(), for arm_kernels.py, which counts the instructions in between under
// QEMU. Prints a line per call, separated by tabs: KERNEL, INSTRUCTION SET, UNITS, UNIT. A call computes `UNITS` multiply-adds or
// numbers.
//
// The shapes are SmolLM2-135M's, with one of three key heads: 4 candidates of 12 tokens behind 200, 48 rows of products.
#include <cstdio>
#include <new>
#include <string>
#include <vector>

#include "kernels/attention/slate_attention.hpp"
#include "kernels/products/bfloat16_products.hpp"
#include "kernels/rows/rows.hpp"

// Their addresses mark what is counted.
extern "C" {
[[gnu::noipa]] void begin_count() {}
[[gnu::noipa]] void end_count() {}
}

namespace rexit::core::kernels {
namespace {

struct Serial final : Threads {
  void* allocate(std::size_t bytes) const override { return ::operator new(bytes, std::align_val_t(cache_line)); }
  void release(void* memory) const noexcept override { ::operator delete(memory, std::align_val_t(cache_line)); }
  void run_nothrow(Function function, std::size_t count, void* data) const override {
    for (std::size_t i = 0; i < count; ++i) function(data, i);
  }
};

const Serial serial;

// Between -1 and 1.
std::vector<float> numbers(std::size_t count) {
  static std::uint32_t state = 1;
  std::vector<float> values(count);
  for (float& value : values) {
    state = state * 1664525 + 1013904223;
    value = static_cast<float>(static_cast<std::int32_t>(state)) * 0x1p-31F;
  }
  return values;
}

struct Kernel {
  std::string name;
  bool in_pairs;  // whether there is one with instructions for pairs of bfloat16, too
  std::size_t units;
  const char* unit;
};

// Counts call(table). Before that it is called once, so that scratch memory has its final size.
template <class Call>
void count(const Kernel& kernel, const Call& call) {
  for (const Table* with : tables()) {
    if (with->pairs != nullptr && !kernel.in_pairs) continue;
    call(*with);
    begin_count();
    call(*with);
    end_count();
    std::printf("%s\t%s\t%zu\t%s\n", kernel.name.c_str(), with->pairs != nullptr ? "bf16" : "baseline", kernel.units,
                kernel.unit);
  }
}

void count_attention() {
  constexpr std::size_t heads = 3, candidates = 4, length = 12, tokens = candidates * length, prefix = 200, dim = 64;
  // A token sees the prefix and, on average, half of its candidate. Scores and values are a product each.
  constexpr std::size_t multiply_adds = 2 * dim * heads * candidates * (length * prefix + length * (length + 1) / 2);
  std::vector<std::int64_t> groups;
  for (std::size_t t = 0; t < tokens; ++t) groups.push_back(static_cast<std::int64_t>(t / length));
  const std::vector<float> query = numbers(heads * tokens * dim), floats = numbers(prefix * dim);
  const std::vector<std::uint16_t> halves(prefix * dim, 0x3800);  // 0.5
  std::vector<std::int8_t> bytes(prefix * (dim + 1));
  quantize_cache(floats.data(), bytes.data(), prefix, dim, serial);
  std::vector<float> out(query.size());
  const auto count_keys = [&](const std::string& type, const Stored& keys, bool bfloat16) {
    count({"attention in " + type, bfloat16, multiply_adds, "multiply-add"}, [&](const Table& with) {
      attend({query.data(), keys, keys, keys, keys, groups.data(), out.data(), heads, 1, tokens, prefix, dim, 0.125F, bfloat16},
             serial, with);
    });
  };
  count_keys("float32", floats.data(), false);
  count_keys("float32, float16 keys", halves.data(), false);
  count_keys("float32, int8 keys", bytes.data(), false);
  count_keys("bfloat16, float16 keys", halves.data(), true);
  count_keys("bfloat16, int8 keys", bytes.data(), true);
}

void count_products() {
  constexpr std::size_t rows = 48, depth = 576, panel = 64;
  const std::vector<std::uint16_t> x(rows * depth, 0x3f00), weight(depth * panel, 0x3f00);  // 0.5
  std::vector<float> out(rows * panel);
  count({"products in bfloat16", true, rows * depth * panel, "multiply-add"}, [&](const Table& with) {
    multiply_panels({x.data(), weight.data(), nullptr, out.data(), rows, depth, 1, panel}, serial, with);
  });
}

void count_rows() {
  constexpr std::size_t rows = 8, width = 576, dim = 64;
  const std::vector<float> x = numbers(rows * width), other = numbers(rows * width), scale = numbers(rows);
  std::vector<float> scales(rows), out(x.size());
  std::vector<std::uint8_t> values(x.size());
  std::vector<std::uint16_t> halves(x.size());
  std::vector<std::int8_t> cache(rows * width / dim * (dim + 1));
  const Quantized quantized{values.data(), scales.data(), rows, width};
  const Rounded rounded{halves.data(), rows, width};
  const auto count_numbers = [&](const char* name, const auto& call) { count({name, false, x.size(), "number"}, call); };
  count_numbers("QuantizeRows", [&](const Table& with) { quantize_rows(x.data(), quantized, serial, with); });
  count_numbers("RMSNormQuantizeRows",
                [&](const Table& with) { rms_norm_quantize_rows(x.data(), other.data(), 1e-5F, quantized, serial, with); });
  count_numbers("SwiGLUQuantizeRows",
                [&](const Table& with) { swiglu_quantize_rows(x.data(), other.data(), scale.data(), quantized, serial, with); });
  count_numbers("ScaleAddRows", [&](const Table& with) {
    scale_add_rows(x.data(), scale.data(), other.data(), out.data(), rows, width, serial, with);
  });
  count_numbers("QuantizeCache",
                [&](const Table& with) { quantize_cache(x.data(), cache.data(), x.size() / dim, dim, serial, with); });
  count_numbers("RoundRows", [&](const Table& with) { round_rows(x.data(), rounded, serial, with); });
  count_numbers("RMSNormRoundRows",
                [&](const Table& with) { rms_norm_round_rows(x.data(), other.data(), 1e-5F, rounded, serial, with); });
  count_numbers("SwiGLURoundRows", [&](const Table& with) { swiglu_round_rows(x.data(), other.data(), rounded, serial, with); });
}

}  // namespace
}  // namespace rexit::core::kernels

int main() {
  rexit::core::kernels::count_attention();
  rexit::core::kernels::count_products();
  rexit::core::kernels::count_rows();
  return 0;
}
