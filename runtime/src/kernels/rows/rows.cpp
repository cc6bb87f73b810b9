#include "kernels/rows/rows.hpp"

#include "kernels/rows/row_block.hpp"

namespace rexit::core::kernels {
namespace {

void run_rows(Threads::Function task, RowWork work, const Threads& threads) {
  threads.run(task, ceil_div(work.rows, task_rows), &work);
}

}  // namespace

void quantize_rows(const float* x, const QuantizedRows& out, const Threads& threads, const Table& with) {
  run_rows(with.quantize, {x, nullptr, nullptr, 0, out, nullptr, nullptr, out.rows, out.width}, threads);
}

void rms_norm_quantize_rows(const float* x, const float* weight, float epsilon, const QuantizedRows& out, const Threads& threads,
                            const Table& with) {
  run_rows(with.rms_norm_quantize, {x, weight, nullptr, epsilon, out, nullptr, nullptr, out.rows, out.width}, threads);
}

void layer_norm_quantize_rows(const LayerNorm& norm, const QuantizedRows& out, const Threads& threads, const Table& with) {
  RowWork work{norm.x, norm.residual, norm.weight, norm.epsilon, out, norm.y, nullptr, out.rows, out.width};
  work.bias = norm.bias;
  work.factor = norm.factor;
  run_rows(with.layer_norm, work, threads);
}

void activate_quantize_rows(Activation activation, const float* x, const float* factor, const QuantizedRows& out,
                            const Threads& threads, const Table& with) {
  RowWork work{x, nullptr, nullptr, 0, out, nullptr, nullptr, out.rows, out.width};
  work.activation = activation;
  work.factor = factor;
  run_rows(with.activate, work, threads);
}

void gated_quantize_rows(Activation activation, const float* gate, const float* up, const float* scale, const QuantizedRows& out,
                         const Threads& threads, const Table& with) {
  RowWork work{gate, up, scale, 0, out, nullptr, nullptr, out.rows, out.width};
  work.activation = activation;
  run_rows(with.gated_quantize, work, threads);
}

void scale_add_rows(const float* product, const float* scale, const Addend& addend, float* out, std::size_t rows,
                    std::size_t width, const Threads& threads, const Table& with) {
  RowWork work{product, addend.values, scale, 0, {}, out, nullptr, rows, width};
  work.other_step = addend.step;
  run_rows(with.scale_add, work, threads);
}

void round_rows(const float* x, const RoundedRows& out, const Threads& threads, const Table& with) {
  run_rows(with.round, {x, nullptr, nullptr, 0, {}, nullptr, out.values, out.rows, out.width}, threads);
}

void rms_norm_round_rows(const float* x, const float* weight, float epsilon, const RoundedRows& out, const Threads& threads,
                         const Table& with) {
  run_rows(with.rms_norm_round, {x, weight, nullptr, epsilon, {}, nullptr, out.values, out.rows, out.width}, threads);
}

void swiglu_round_rows(const float* gate, const float* up, const RoundedRows& out, const Threads& threads, const Table& with) {
  run_rows(with.swiglu_round, {gate, up, nullptr, 0, {}, nullptr, out.values, out.rows, out.width}, threads);
}

}  // namespace rexit::core::kernels
