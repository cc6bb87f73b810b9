#include "backend_tensorrt.hpp"

#include <NvInfer.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "cuda.hpp"
#include "status.hpp"
#include "tensorrt_engines.hpp"

namespace rexit::core {
namespace {

constexpr std::size_t address_alignment = 256;  // what setTensorAddress asks for; cudaMalloc gives no less

std::size_t aligned(std::size_t bytes) { return (bytes + address_alignment - 1) / address_alignment * address_alignment; }

bool is_aligned(const void* data) { return reinterpret_cast<std::uintptr_t>(data) % address_alignment == 0; }

// What one session's passes need besides the engines: a stream, on which everything keeps its order, an execution context for
// each profile of each engine, and memory. All of it is taken at once, for the largest pass the engines take.
class Worker {
 public:
  explicit Worker(const std::vector<LoadedEngine>& engines) : engines_(engines), stream_("a stream") {
    std::size_t working = 1, indices = 0, spare = 0, hidden = 0, answers = 0;
    for (const LoadedEngine& loaded : engines) {
      working = std::max(working, static_cast<std::size_t>(loaded.engine->getDeviceMemorySizeV2()));
      for (const EngineProfile& profile : loaded.plan.profiles) {
        const std::size_t tokens = profile.tokens.most, rows = profile.rows.most;
        indices = std::max(indices, 3 * aligned(tokens * sizeof(std::int64_t)) + aligned(rows * sizeof(std::int64_t)));
        std::size_t outputs = 0;
        for (std::size_t i = 0; i < loaded.outputs.size(); ++i)
          outputs += aligned(bytes_of(loaded.outputs[i], i == loaded.logits() ? rows : tokens));
        spare = std::max(spare, outputs);
        answers = std::max(answers, bytes_of(loaded.outputs[loaded.logits()], rows));
        if (!loaded.first() && bytes_of(loaded.inputs[0], 1) % address_alignment != 0)
          hidden = std::max(hidden, bytes_of(loaded.inputs[0], tokens));
      }
    }
    staged_.reserve(2 * indices, "pinned memory for inputs");  // a prefix's, and the slate's behind it
    received_.reserve(answers, "pinned memory for logits");
    placed_.reserve(indices, "device memory for inputs");
    scratch_.reserve(spare, "device memory for outputs");
    hidden_in_.reserve(hidden, "device memory for hidden states");
    hidden_out_.reserve(hidden, "device memory for hidden states");
    // The contexts run one after another, so they share their working memory.
    working_.reserve(working, "device memory for the engines");
    for (const LoadedEngine& loaded : engines) {
      contexts_.emplace_back();
      // One for each profile: a context that changes its profile sets its layers up anew, and prefix and slate take turns.
      for (std::size_t p = 0; p < loaded.plan.profiles.size(); ++p) contexts_.back().push_back(make_context(loaded, p));
    }
  }

  void run(std::size_t segment, const Pass& pass) {
    const LoadedEngine& loaded = engines_[segment];
    const std::string& where = loaded.plan.path;
    nvinfer1::IExecutionContext& context = *contexts_[segment][loaded.profile_for(pass.tokens, pass.prefix, pass.rows)];
    forget_tensorrt_error();
    const auto bind = [&](const TensorSpec& spec, void* data) {
      if (!context.setTensorAddress(spec.name.c_str(), data)) refused(loaded, spec);
    };
    const auto input = [&](std::size_t i, std::size_t dynamic, const void* data) {
      if (!context.setInputShape(loaded.inputs[i].name.c_str(), dims_of(loaded.inputs[i], dynamic)))
        refused(loaded, loaded.inputs[i]);
      bind(loaded.inputs[i], const_cast<void*>(data));  // TensorRT only reads its inputs
    };

    const std::array<const void*, 4> indices = stage(pass, loaded);
    input(0, pass.tokens, loaded.first() ? indices[0] : aligned_input(loaded.inputs[0], pass));
    for (std::size_t i = 1; i < 4; ++i) input(i, i == 3 ? pass.rows : pass.tokens, indices[i]);
    const std::size_t layers = loaded.layers();
    for (std::size_t i = 0; i < layers; ++i) {  // an empty tensor has an address too
      input(4 + i, pass.prefix, pass.prefix == 0 ? indices[1] : pass.past_keys[i]);
      input(4 + layers + i, pass.prefix, pass.prefix == 0 ? indices[1] : pass.past_values[i]);
    }

    // TensorRT writes every output: those that nobody wants go to scratch memory.
    const std::size_t logits = loaded.logits();
    results_.assign(loaded.outputs.size(), nullptr);
    const bool beside = logits == 1 && pass.hidden_out != nullptr && !is_aligned(pass.hidden_out);
    if (logits == 1) results_[0] = beside ? hidden_out_.data() : pass.hidden_out;
    for (std::size_t i = 0; pass.new_keys != nullptr && i < layers; ++i) {
      results_[logits + 1 + i] = pass.new_keys[i];
      results_[logits + 1 + layers + i] = pass.new_values[i];
    }
    std::byte* scratch = scratch_.data();
    for (std::size_t i = 0; i < results_.size(); ++i) {
      if (results_[i] == nullptr) {
        results_[i] = scratch;
        scratch += aligned(bytes_of(loaded.outputs[i], i == logits ? pass.rows : pass.tokens));
      }
      bind(loaded.outputs[i], results_[i]);
    }

    if (!context.enqueueV3(stream_.get()))
      fail(REXIT_BACKEND_FAILED, where, ": TensorRT could not run the engine: ", take_tensorrt_error());
    if (beside) copy(pass.hidden_out, hidden_out_.data(), bytes_of(loaded.outputs[0], pass.tokens));
    if (pass.logits == nullptr) return;  // whoever reads the rest comes later on the stream
    const std::size_t answer = bytes_of(loaded.outputs[logits], pass.rows);
    cuda::check(cudaMemcpyAsync(received_.data(), results_[logits], answer, cudaMemcpyDeviceToHost, stream_.get()),
                where + ": copying logits");
    wait(where);
    std::memcpy(pass.logits, received_.data(), answer);
  }

  // CUDA does not copy between overlapping ranges, so these go over a third place.
  void copy(void* to, const void* from, std::size_t bytes) {
    const auto on_stream = [&](void* a, const void* b) {
      cuda::check(cudaMemcpyAsync(a, b, bytes, cudaMemcpyDeviceToDevice, stream_.get()), "copying hidden states");
    };
    const auto a = reinterpret_cast<std::uintptr_t>(to), b = reinterpret_cast<std::uintptr_t>(from);
    if ((a < b ? b - a : a - b) >= bytes) {
      on_stream(to, from);
      return;
    }
    std::byte* between = between_.reserve(bytes, "device memory for moving hidden states");
    on_stream(between, from);
    on_stream(to, between);
  }

  void copy_rows(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch, std::size_t bytes, std::size_t count) {
    cuda::check(cudaMemcpy2DAsync(to, to_pitch, from, from_pitch, bytes, count, cudaMemcpyDeviceToDevice, stream_.get()),
                "copying keys and values");
  }

  // Until all that was issued is done; what fails on the GPU is told here.
  void wait(const std::string& where) {
    staged_bytes_ = 0;
    cuda::check(cudaStreamSynchronize(stream_.get()), where);
  }
  void abandon() noexcept {  // the same, whatever fails
    staged_bytes_ = 0;
    cudaStreamSynchronize(stream_.get());
  }

 private:
  std::unique_ptr<nvinfer1::IExecutionContext> make_context(const LoadedEngine& loaded, std::size_t profile) {
    forget_tensorrt_error();
    std::unique_ptr<nvinfer1::IExecutionContext> context(
        loaded.engine->createExecutionContext(nvinfer1::ExecutionContextAllocationStrategy::kUSER_MANAGED));
    if (context == nullptr || !context->setOptimizationProfileAsync(static_cast<std::int32_t>(profile), stream_.get()))
      fail(REXIT_BACKEND_FAILED, loaded.plan.path, ": TensorRT could not make an execution context: ", take_tensorrt_error());
    context->setDeviceMemoryV2(working_.data(), static_cast<std::int64_t>(working_.bytes()));
    return context;
  }

  // Indices are small: gathered in pinned memory they go to the device in one copy, which needs no wait. Where they are gathered
  // must not be written again before they have gone, which a wait for logits tells.
  std::array<const void*, 4> stage(const Pass& pass, const LoadedEngine& loaded) {
    const std::size_t tokens = pass.tokens * sizeof(std::int64_t), rows = pass.rows * sizeof(std::int64_t);
    const std::array<std::pair<const std::int64_t*, std::size_t>, 4> parts{
        {{pass.token_ids, loaded.first() ? tokens : 0}, {pass.positions, tokens}, {pass.groups, tokens}, {pass.row_index, rows}}};
    std::size_t bytes = 0;
    for (const auto& [data, size] : parts) bytes += aligned(size);
    if (staged_bytes_ + bytes > staged_.bytes()) wait(loaded.plan.path);
    std::byte* staged = staged_.data() + staged_bytes_;
    staged_bytes_ += bytes;
    std::array<const void*, 4> addresses{};
    std::size_t at = 0;
    for (std::size_t i = 0; i < parts.size(); ++i) {
      if (parts[i].second != 0) std::memcpy(staged + at, parts[i].first, parts[i].second);
      addresses[i] = placed_.data() + at;
      at += aligned(parts[i].second);
    }
    cuda::check(cudaMemcpyAsync(placed_.data(), staged, bytes, cudaMemcpyHostToDevice, stream_.get()),
                loaded.plan.path + ": copying inputs");
    return addresses;
  }

  // Hidden states may begin at any row: behind a shared start, or where a chunk of a slate begins.
  const void* aligned_input(const TensorSpec& spec, const Pass& pass) {
    if (is_aligned(pass.hidden_in)) return pass.hidden_in;
    copy(hidden_in_.data(), pass.hidden_in, bytes_of(spec, pass.tokens));
    return hidden_in_.data();
  }

  [[noreturn]] static void refused(const LoadedEngine& loaded, const TensorSpec& spec) {
    fail(REXIT_BACKEND_FAILED, loaded.plan.path, ": TensorRT refuses tensor `", spec.name, "`: ", take_tensorrt_error());
  }

  const std::vector<LoadedEngine>& engines_;
  cuda::Stream stream_;
  cuda::DeviceMemory placed_, scratch_, hidden_in_, hidden_out_, between_, working_;
  cuda::PinnedMemory staged_, received_;
  std::size_t staged_bytes_ = 0;  // of staged_, in use by copies under way
  std::vector<void*> results_;
  std::vector<std::vector<std::unique_ptr<nvinfer1::IExecutionContext>>> contexts_;  // [segment][profile]; gone before the memory
};

// The engines, and the worker that waits for a session: the first one's, or that of one that has ended.
class Shared {
 public:
  Shared(const Bundle& bundle, std::int32_t device) : device_(device) {
    const cuda::OnDevice on(device_);
    engines_ = std::make_unique<const TensorRtEngines>(bundle, device_);
    spare_ = std::make_unique<Worker>(engines_->all());
  }
  ~Shared() {
    const cuda::OnDevice on(device_);
    spare_.reset();
    engines_.reset();
  }

  int device() const noexcept { return device_; }

  std::unique_ptr<Worker> take() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (spare_ != nullptr) return std::move(spare_);
    }
    return std::make_unique<Worker>(engines_->all());
  }
  void give(std::unique_ptr<Worker> worker) noexcept {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (spare_ == nullptr) spare_ = std::move(worker);
  }

 private:
  const int device_;
  std::unique_ptr<const TensorRtEngines> engines_;
  std::mutex mutex_;
  std::unique_ptr<Worker> spare_;
};

class TensorRtBackend final : public Backend {
 public:
  explicit TensorRtBackend(std::shared_ptr<Shared> shared) : shared_(std::move(shared)) {
    const cuda::OnDevice on(shared_->device());
    worker_ = shared_->take();
  }
  ~TensorRtBackend() override {
    const cuda::OnDevice on(shared_->device());
    worker_->abandon();
    shared_->give(std::move(worker_));
  }

  void run(std::size_t segment, const Pass& pass) const override {
    const cuda::OnDevice on(shared_->device());
    try {
      worker_->run(segment, pass);
    } catch (...) {
      worker_->abandon();
      throw;
    }
  }

  void* allocate(std::size_t bytes) const override {
    const cuda::OnDevice on(shared_->device());
    void* memory = nullptr;
    cuda::check(cudaMalloc(&memory, std::max<std::size_t>(bytes, 1)), "device memory of " + cuda::wanted(bytes));
    return memory;
  }

  void release(void* memory) const noexcept override {
    if (memory == nullptr) return;
    const cuda::OnDevice on(shared_->device());
    worker_->abandon();  // what still uses it is on this stream
    cudaFree(memory);
  }

  std::size_t tensor_alignment() const noexcept override { return address_alignment; }

  void copy(void* to, const void* from, std::size_t bytes) const override {
    const cuda::OnDevice on(shared_->device());
    worker_->copy(to, from, bytes);
  }

  void copy_rows(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch, std::size_t bytes,
                 std::size_t count) const override {
    const cuda::OnDevice on(shared_->device());
    worker_->copy_rows(to, to_pitch, from, from_pitch, bytes, count);
  }

 private:
  std::shared_ptr<Shared> shared_;
  std::unique_ptr<Worker> worker_;
};

}  // namespace

Backends make_tensorrt_backends(const Bundle& bundle, std::int32_t device_id) {
  return [shared = std::make_shared<Shared>(bundle, device_id)] { return std::make_shared<const TensorRtBackend>(shared); };
}

}  // namespace rexit::core
