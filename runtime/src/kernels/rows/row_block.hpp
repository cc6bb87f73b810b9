// The operators of rows.hpp for a single row, for any vector width W.
#pragma once

#include "kernels/activations.hpp"
#include "kernels/lanes.hpp"
#include "kernels/rows/rows.hpp"
#include "kernels/threads.hpp"

namespace rexit::core::kernels {

constexpr float step = 1.0F / 127, min_largest = 1e-30F;
constexpr std::size_t task_rows = 8;

// Operands of all operators; unused operands are null.
struct RowWork {
  const float *x, *other, *scale;
  float epsilon;
  QuantizedRows quantized;
  float* out;
  std::uint16_t* rounded;
  std::size_t rows, width;
  const float *bias = nullptr, *factor = nullptr;
  std::size_t other_step = 0;
  Activation activation = Activation::silu;
};

template <int W>
REXIT_INLINE void quantize(const float* x, float largest, const RowWork& work, std::size_t row) {
  using L = Lanes<W>;
  const float scale =
      (largest < min_largest ? min_largest : largest) * step;  // NaN if `largest` is, which makes the whole row NaN
  std::uint8_t* to = work.quantized.values + row * work.width;
  across<W>(work.width, [&](std::size_t i, std::size_t count) __attribute__((always_inline)) {
    store_bytes<W>(to + i, L::rounded(L::load(x + i, count) / L::all(scale)) + 128, count);
  });
  work.quantized.scales[row] = scale;
}

struct QuantizeRows {
  template <int W>
  static REXIT_INLINE void row(const RowWork& work, std::size_t row) {
    using L = Lanes<W>;
    const float* x = work.x + row * work.width;
    typename L::Ints maxima{};
    across<W>(work.width, [&](std::size_t i, std::size_t count) __attribute__((always_inline)) {
      maxima = L::larger(maxima, L::magnitude(L::load(x + i, count)));
    });
    quantize<W>(x, L::largest(maxima), work, row);
  }
};

// 1 / sqrt(mean(x^2) + epsilon)
template <int W>
REXIT_INLINE float rms_factor(const float* x, const RowWork& work) {
  using L = Lanes<W>;
  typename L::Floats squares{};
  across<W>(work.width, [&](std::size_t i, std::size_t count) __attribute__((always_inline)) {
    const typename L::Floats numbers = L::load(x + i, count);
    squares += numbers * numbers;
  });
  return 1 / __builtin_sqrtf(L::sum_of_halves(squares) / static_cast<float>(work.width) + work.epsilon);
}

struct RmsNormQuantizeRows {
  template <int W>
  static REXIT_INLINE void row(const RowWork& work, std::size_t row) {
    using L = Lanes<W>;
    const float *x = work.x + row * work.width, *weight = work.other;
    float* y = scratch_floats(work.width);
    typename L::Ints maxima{};
    const float factor = rms_factor<W>(x, work);
    across<W>(work.width, [&](std::size_t i, std::size_t count) __attribute__((always_inline)) {
      const typename L::Floats normed = L::load(x + i, count) * L::all(factor) * L::load(weight + i, count);
      maxima = L::larger(maxima, L::magnitude(normed));
      L::store(y + i, normed, count);
    });
    quantize<W>(y, L::largest(maxima), work, row);
  }
};

// Quantizes, or with RowWork::rounded rounds. `scale` is the norm's weight.
struct LayerNormRows {
  template <int W>
  static REXIT_INLINE void row(const RowWork& work, std::size_t row) {
    using L = Lanes<W>;
    const std::size_t width = work.width, at = row * width;
    const float *x = work.x + at, *residual = work.other != nullptr ? work.other + at : nullptr;
    float *y = scratch_floats(width), *out = work.out != nullptr ? work.out + at : nullptr;
    std::uint16_t* rounded = work.rounded != nullptr ? work.rounded + at : nullptr;
    typename L::Floats sums{}, squares{};
    across<W>(width, [&](std::size_t i, std::size_t count) __attribute__((always_inline)) {
      typename L::Floats numbers = L::load(x + i, count);
      if (residual != nullptr) numbers += L::load(residual + i, count);
      sums += numbers;
      L::store(y + i, numbers, count);
    });
    const float mean = L::sum_of_halves(sums) / static_cast<float>(width);
    std::size_t tail = 0;
    for (; tail + W <= width; tail += W) {
      const typename L::Floats apart = L::load(y + tail) - L::all(mean);
      squares += apart * apart;
    }
    float square = L::sum_of_halves(squares);
    for (; tail < width; ++tail) square += (y[tail] - mean) * (y[tail] - mean);
    const typename L::Floats norm = L::all(1 / __builtin_sqrtf(square / static_cast<float>(width) + work.epsilon));
    typename L::Ints maxima{};
    across<W>(width, [&](std::size_t i, std::size_t count) __attribute__((always_inline)) {
      typename L::Floats normed =
          (L::load(y + i, count) - L::all(mean)) * norm * L::load(work.scale + i, count) + L::load(work.bias + i, count);
      if (out != nullptr) L::store(out + i, normed, count);
      if (rounded != nullptr) return store_bfloat16<W>(rounded + i, normed, count);
      if (work.factor != nullptr) normed *= L::load(work.factor + i, count);
      maxima = L::larger(maxima, L::magnitude(normed));
      L::store(y + i, normed, count);
    });
    if (rounded == nullptr) quantize<W>(y, L::largest(maxima), work, row);
  }
};

// Quantizes numbers(i, count), the numbers of a row from column i on.
template <int W, class Numbers>
REXIT_INLINE void quantize_computed(const RowWork& work, std::size_t row, const Numbers& numbers) {
  using L = Lanes<W>;
  float* y = scratch_floats(work.width);
  typename L::Ints maxima{};
  across<W>(work.width, [&](std::size_t i, std::size_t count) __attribute__((always_inline)) {
    const typename L::Floats computed = numbers(i, count);
    maxima = L::larger(maxima, L::magnitude(computed));
    L::store(y + i, computed, count);
  });
  quantize<W>(y, L::largest(maxima), work, row);
}

// Quantizes, or with RowWork::rounded rounds.
struct ActivateRows {
  template <int W>
  static REXIT_INLINE void row(const RowWork& work, std::size_t row) {
    using L = Lanes<W>;
    const float* x = work.x + row * work.width;
    with_activation(work.activation, [&](auto activation) __attribute__((always_inline)) {
      if (work.rounded != nullptr) {
        std::uint16_t* to = work.rounded + row * work.width;
        return across<W>(work.width, [&](std::size_t i, std::size_t count) __attribute__((always_inline)) {
          store_bfloat16<W>(to + i, activate<activation.value, W>(L::load(x + i, count)), count);
        });
      }
      quantize_computed<W>(work, row, [&](std::size_t i, std::size_t count) __attribute__((always_inline)) {
        const typename L::Floats numbers = activate<activation.value, W>(L::load(x + i, count));
        return work.factor == nullptr ? numbers : numbers * L::load(work.factor + i, count);
      });
    });
  }
};

struct GatedQuantizeRows {
  template <int W>
  static REXIT_INLINE void row(const RowWork& work, std::size_t row) {
    using L = Lanes<W>;
    const float *gate = work.x + row * work.width, *up = work.other + row * work.width;
    const typename L::Floats scale = L::all(work.scale[row]);
    with_activation(work.activation, [&](auto activation) __attribute__((always_inline)) {
      quantize_computed<W>(work, row, [&](std::size_t i, std::size_t count) __attribute__((always_inline)) {
        return activate<activation.value, W>(L::load(gate + i, count) * scale) * (L::load(up + i, count) * scale);
      });
    });
  }
};

struct ScaleAddRows {
  template <int W>
  static REXIT_INLINE void row(const RowWork& work, std::size_t row) {
    using L = Lanes<W>;
    const std::size_t at = row * work.width;
    const float *product = work.x + at, *addend = work.other + row * work.other_step;
    float* out = work.out + at;
    const typename L::Floats scale = L::all(work.scale[row]);
    across<W>(work.width, [&](std::size_t i, std::size_t count) __attribute__((always_inline)) {
      L::store(out + i, L::load(product + i, count) * scale + L::load(addend + i, count), count);
    });
  }
};

struct RoundRows {
  template <int W>
  static REXIT_INLINE void row(const RowWork& work, std::size_t row) {
    using L = Lanes<W>;
    const float* x = work.x + row * work.width;
    std::uint16_t* to = work.rounded + row * work.width;
    across<W>(work.width, [&](std::size_t i, std::size_t count)
                              __attribute__((always_inline)) { store_bfloat16<W>(to + i, L::load(x + i, count), count); });
  }
};

struct RmsNormRoundRows {
  template <int W>
  static REXIT_INLINE void row(const RowWork& work, std::size_t row) {
    using L = Lanes<W>;
    const float *x = work.x + row * work.width, *weight = work.other;
    std::uint16_t* to = work.rounded + row * work.width;
    const typename L::Floats factor = L::all(rms_factor<W>(x, work));
    across<W>(work.width, [&](std::size_t i, std::size_t count) __attribute__((always_inline)) {
      store_bfloat16<W>(to + i, L::load(x + i, count) * factor * L::load(weight + i, count), count);
    });
  }
};

struct SwigluRoundRows {
  template <int W>
  static REXIT_INLINE void row(const RowWork& work, std::size_t row) {
    using L = Lanes<W>;
    const float *gate = work.x + row * work.width, *up = work.other + row * work.width;
    std::uint16_t* to = work.rounded + row * work.width;
    across<W>(work.width, [&](std::size_t i, std::size_t count) __attribute__((always_inline)) {
      const typename L::Floats g = L::load(gate + i, count);
      store_bfloat16<W>(to + i, g / (L::all(1) + L::exp(-g)) * L::load(up + i, count), count);
    });
  }
};

}  // namespace rexit::core::kernels
