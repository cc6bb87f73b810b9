// How fast is a product of rows with a weight, by shape? One thread, the shapes of MiniLM-L6, SmolLM2-135M and XLM-R base, 512
// rows, as an encoder's pass has them; billion operations a second, two for each multiplication.
//
//   cmake -S . -B build/cpp && cmake --build build/cpp --target products && build/cpp/tests/cpp/products
//
// `alone` writes floats; `joined` goes on to what reads them (GELU, or norm, and rounding), where a model does.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <new>
#include <random>
#include <vector>

#include "kernels/products/bfloat16_products.hpp"
#include "kernels/products/int8_products.hpp"

namespace rexit::core::kernels {
namespace {

struct OneThread final : Threads {
  void* allocate(std::size_t bytes) const override { return ::operator new(bytes, std::align_val_t(cache_line)); }
  void release(void* memory) const noexcept override { ::operator delete(memory, std::align_val_t(cache_line)); }
  void run_nothrow(Function function, std::size_t count, void* data) const override {
    for (std::size_t i = 0; i < count; ++i) function(data, i);
  }
};

enum class Reader { none, gelu, norm };
struct Shape {
  const char* model;
  std::size_t depth, columns;
  Reader reader;
};
constexpr Shape shapes[] = {
    {"MiniLM-L6", 384, 384, Reader::norm},     {"MiniLM-L6", 384, 1536, Reader::gelu},
    {"MiniLM-L6", 1536, 384, Reader::norm},    {"SmolLM2-135M", 576, 576, Reader::none},
    {"SmolLM2-135M", 576, 1536, Reader::none}, {"SmolLM2-135M", 1536, 576, Reader::none},
    {"XLM-R base", 768, 768, Reader::norm},    {"XLM-R base", 768, 3072, Reader::gelu},
    {"XLM-R base", 3072, 768, Reader::norm},
};
constexpr std::size_t rows = 512, repeats = 40;

// The least of `repeats` runs, in billion operations a second.
template <typename Run>
double speed(const Shape& shape, const Run& run) {
  double least = 1e9;
  for (std::size_t i = 0; i < repeats; ++i) {
    const auto begun = std::chrono::steady_clock::now();
    run();
    least = std::min(least, std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count());
  }
  return 2e-9 * static_cast<double>(rows * shape.depth * shape.columns) / least;
}

template <typename T>
std::vector<T> random_numbers(std::size_t count) {
  static std::mt19937 random(1);
  std::vector<T> values(count);
  for (T& value : values) value = static_cast<T>(random() % 255 + 1);
  return values;
}

void measure(const Shape& shape) {
  const OneThread threads;
  const std::size_t depth = shape.depth, columns = shape.columns, outputs = rows * columns;
  const std::vector<float> per_column(columns, 0.01F), per_row(rows, 0.01F), residual(outputs, 0.5F);
  const std::vector<std::int32_t> offsets(columns);
  std::vector<float> floats(outputs), scales(rows);
  std::vector<std::uint8_t> bytes(outputs);
  std::vector<std::uint16_t> halves(outputs);
  const LayerNorm norm{nullptr, residual.data(), per_column.data(), per_column.data(), nullptr, 1e-5F, floats.data()};

  double int8[] = {0, 0}, bfloat16[] = {0, 0};
  if (table().int8 != nullptr) {
    const auto x = random_numbers<std::uint8_t>(rows * depth);
    const auto values = random_numbers<std::int8_t>(depth * columns);
    const QuantizedInput input{x.data(), per_row.data(), rows, depth};
    const PackedWeight weight{values.data(), per_column.data(), offsets.data()};
    const QuantizedRows out{bytes.data(), scales.data(), rows, columns};
    const float* bias = per_column.data();
    int8[0] = speed(shape, [&] { multiply_rows(input, weight, columns, {bias, 0}, floats.data(), threads); });
    if (shape.reader == Reader::gelu)
      int8[1] =
          speed(shape, [&] { multiply_activate_quantize_rows(Activation::gelu, input, weight, bias, nullptr, out, threads); });
    if (shape.reader == Reader::norm)
      int8[1] = speed(shape, [&] { multiply_layer_norm_quantize_rows(input, weight, bias, norm, out, threads); });
  }
  const std::vector<std::uint16_t> x(rows * depth, 0x3f80), weight(depth * columns, 0x3f00);
  const std::size_t panel = columns % 64 == 0 ? 64 : panel_step;
  const PanelProduct product{x.data(), weight.data(), {per_column.data(), 0}, floats.data(), rows, depth, columns / panel, panel};
  const RoundedRows out{halves.data(), rows, columns};
  bfloat16[0] = speed(shape, [&] { multiply_panels(product, threads); });
  if (shape.reader == Reader::gelu)
    bfloat16[1] = speed(shape, [&] { multiply_activate_round_rows(Activation::gelu, product, out, threads); });
  if (shape.reader == Reader::norm)
    bfloat16[1] = speed(shape, [&] { multiply_layer_norm_round_rows(product, norm, out, threads); });
  std::printf("%-13s %5zu %8zu", shape.model, depth, columns);
  for (const double figure : {int8[0], int8[1], bfloat16[0], bfloat16[1]})
    figure > 0 ? std::printf(" %8.0f", figure) : std::printf(" %8s", "-");
  std::printf("\n");
}

}  // namespace
}  // namespace rexit::core::kernels

int main() {
  std::printf("%-13s %5s %8s %8s %8s %8s %8s\n%23s%17s%17s\n", "", "depth", "columns", "alone", "joined", "alone", "joined", "",
              "int8", "bfloat16");
  for (const auto& shape : rexit::core::kernels::shapes) rexit::core::kernels::measure(shape);
}
