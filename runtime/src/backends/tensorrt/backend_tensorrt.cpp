#include "backends/tensorrt/backend_tensorrt.hpp"

#include <NvInfer.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "backends/tensorrt/buckets.hpp"
#include "backends/tensorrt/cuda.hpp"
#include "backends/tensorrt/tensorrt_engines.hpp"
#include "base/status.hpp"

namespace rexit::core {
namespace {

constexpr std::size_t max_buckets = 64;         // per session: each has an execution context and a CUDA graph
constexpr std::size_t address_alignment = 256;  // required by setTensorAddress; cudaMalloc guarantees at least that

std::size_t aligned(std::size_t bytes) { return (bytes + address_alignment - 1) / address_alignment * address_alignment; }

bool is_aligned(const void* data) { return reinterpret_cast<std::uintptr_t>(data) % address_alignment == 0; }

// A session's stream, execution contexts (one per engine and profile) and memory. All work is ordered by the stream. The
// constructor allocates everything, for the largest pass that the engines accept.
class Worker {
 public:
  Worker(const std::vector<LoadedEngine>& engines, bool cuda_graphs)
      : engines_(engines), cuda_graphs_(cuda_graphs), stream_("a stream") {
    std::size_t working = 1, inputs = 0, unused_outputs = 0, hidden = 0, past = 0, logits = 0;
    for (const LoadedEngine& loaded : engines) {
      working = std::max(working, static_cast<std::size_t>(loaded.engine->getDeviceMemorySizeV2()));
      for (const OptimizationProfile& profile : loaded.plan.profiles) {
        const std::size_t tokens = profile.tokens.max, rows = profile.rows.max;
        const std::size_t vectors = loaded.takes_vectors() ? aligned(bytes_of(loaded.inputs[LoadedEngine::vectors], tokens)) : 0;
        inputs = std::max(inputs, 3 * aligned(tokens * sizeof(std::int64_t)) + aligned(rows * sizeof(std::int64_t)) + vectors);
        std::size_t outputs = 0;
        for (std::size_t i = 0; i < loaded.outputs.size(); ++i)
          outputs += aligned(bytes_of(loaded.outputs[i], loaded.outputs[i].dynamic == Dynamic::rows ? rows : tokens));
        unused_outputs = std::max(unused_outputs, outputs);
        logits = std::max(logits, bytes_of(loaded.outputs[loaded.logits()], rows));
        const auto add_hidden = [&](const TensorSpec& spec) {
          if (cuda_graphs || bytes_of(spec, 1) % address_alignment != 0) hidden = std::max(hidden, bytes_of(spec, tokens));
        };
        if (!loaded.is_first()) add_hidden(loaded.inputs[LoadedEngine::source]);
        if (loaded.has_hidden_output()) add_hidden(loaded.outputs[0]);
        const std::size_t past_tensor = bytes_of(loaded.inputs[loaded.first_past_key()], profile.prefix.max);
        past = std::max(past, 2 * loaded.layers() * aligned(past_tensor));
      }
    }
    host_inputs_.reserve(2 * inputs, "pinned memory for inputs");  // of a prefix and the following slate
    host_logits_.reserve(logits, "pinned memory for logits");
    device_inputs_.reserve(inputs, "device memory for inputs");
    unused_outputs_.reserve(unused_outputs, "device memory for outputs");
    hidden_in_.reserve(hidden, "device memory for hidden states");
    hidden_out_.reserve(hidden, "device memory for hidden states");
    if (cuda_graphs) {
      padded_inputs_.reserve(inputs, "pinned memory for inputs");
      padded_past_.reserve(past, "device memory for keys and values");
    }
    // Contexts run one after another, so they share working memory.
    working_.reserve(working, "device memory for the engines");
    for (const LoadedEngine& loaded : engines) {
      contexts_.emplace_back();
      // A context per profile: prefixes and slates alternate, and a context that switches profiles sets up its layers again.
      for (std::size_t p = 0; p < loaded.plan.profiles.size(); ++p) contexts_.back().push_back(make_context(loaded, p));
    }
  }

  void run(std::size_t segment, const Pass& pass) {
    const LoadedEngine& loaded = engines_[segment];
    const std::size_t profile = loaded.profile_for(sizes_of(pass));
    clear_tensorrt_error();
    if (cuda_graphs_ && pass.logits != nullptr && pass.new_keys == nullptr)
      run_padded(segment, profile, pass);
    else
      run_unpadded(*contexts_[segment][profile], loaded, pass);
  }

  // CUDA does not copy between overlapping ranges, so they go through a buffer.
  void copy(void* to, const void* from, std::size_t bytes) {
    const auto copy_on_stream = [&](void* target, const void* source) {
      cuda::check(cudaMemcpyAsync(target, source, bytes, cudaMemcpyDefault, stream_.get()), "copying hidden states");
    };
    const auto a = reinterpret_cast<std::uintptr_t>(to), b = reinterpret_cast<std::uintptr_t>(from);
    if ((a < b ? b - a : a - b) >= bytes) {
      copy_on_stream(to, from);
      return;
    }
    std::byte* buffer = move_buffer_.reserve(bytes, "device memory for moving hidden states");
    copy_on_stream(buffer, from);
    copy_on_stream(to, buffer);
  }

  void copy_rows(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch, std::size_t bytes, std::size_t count) {
    cuda::check(cudaMemcpy2DAsync(to, to_pitch, from, from_pitch, bytes, count, cudaMemcpyDefault, stream_.get()),
                "copying keys and values");
  }

  // Waits for all work on the stream. Throws for errors on the GPU.
  void wait(const std::string& where) {
    host_inputs_used_ = 0;
    cuda::check(cudaStreamSynchronize(stream_.get()), where);
  }
  void wait_nothrow() noexcept {  // ignores errors
    host_inputs_used_ = 0;
    cudaStreamSynchronize(stream_.get());
  }

 private:
  std::unique_ptr<nvinfer1::IExecutionContext> make_context(const LoadedEngine& loaded, std::size_t profile) {
    clear_tensorrt_error();
    std::unique_ptr<nvinfer1::IExecutionContext> context(
        loaded.engine->createExecutionContext(nvinfer1::ExecutionContextAllocationStrategy::kUSER_MANAGED));
    if (context == nullptr || !context->setOptimizationProfileAsync(static_cast<std::int32_t>(profile), stream_.get()))
      fail(REXIT_BACKEND_FAILED, loaded.plan.path, ": TensorRT could not create an execution context: ", take_tensorrt_error());
    context->setDeviceMemoryV2(working_.data(), static_cast<std::int64_t>(working_.bytes()));
    return context;
  }

  void run_unpadded(nvinfer1::IExecutionContext& context, const LoadedEngine& loaded, const Pass& pass) {
    clear_addresses(loaded);
    upload_inputs(pass, loaded);
    if (!loaded.is_first()) input_addresses_[LoadedEngine::source] = aligned_hidden(loaded.inputs[LoadedEngine::source], pass);
    const std::size_t layers = loaded.layers(), logits = loaded.logits();
    for (std::size_t i = 0; pass.prefix != 0 && i < layers; ++i) {
      input_addresses_[loaded.first_past_key() + i] = pass.past_keys[i];
      input_addresses_[loaded.first_past_key() + layers + i] = pass.past_values[i];
    }
    const bool via_aligned_copy = loaded.has_hidden_output() && pass.hidden_out != nullptr && !is_aligned(pass.hidden_out);
    if (loaded.has_hidden_output()) output_addresses_[0] = via_aligned_copy ? hidden_out_.data() : pass.hidden_out;
    for (std::size_t i = 0; pass.new_keys != nullptr && i < layers; ++i) {
      output_addresses_[logits + 1 + i] = pass.new_keys[i];
      output_addresses_[logits + 1 + layers + i] = pass.new_values[i];
    }
    const PassSizes sizes = sizes_of(pass);
    bind(context, loaded, sizes);
    enqueue(context, loaded);
    if (via_aligned_copy) copy(pass.hidden_out, hidden_out_.data(), bytes_of(loaded.outputs[0], pass.tokens));
    if (pass.logits == nullptr) return;  // readers of the other outputs come later on the stream
    download(loaded, sizes);
    finish(loaded, pass);
  }

  // 1. The pass is padded to one of a few sizes. All its inputs and outputs have fixed addresses.
  // 2. The first pass of a size runs like any pass.
  // 3. The second gets a separate execution context, which must run once before its capture and must not change afterwards. Then
  //    the copy of the inputs, the engine and the copy of the logits are captured as a CUDA graph.
  // 4. All later passes of this size launch the graph.
  void run_padded(std::size_t segment, std::size_t profile, const Pass& pass) {
    const LoadedEngine& loaded = engines_[segment];
    const OptimizationProfile& limits = loaded.plan.profiles[profile];
    const PassSizes sizes = bucket_of(sizes_of(pass), limits.tokens.max, limits.rows.max);
    clear_addresses(loaded);
    const std::size_t bytes = write_padded_inputs(loaded, pass, sizes);
    const auto upload = [&] {
      cuda::check(cudaMemcpyAsync(device_inputs_.data(), padded_inputs_.data(), bytes, cudaMemcpyHostToDevice, stream_.get()),
                  loaded.plan.path + ": copying inputs");
    };

    Bucket& bucket = bucket_for({segment, sizes.tokens, sizes.prefix, sizes.rows, sizes.vectors});
    const bool capture = bucket.last_use != 0 && !bucket.graph.ready();
    bucket.last_use = ++uses_;
    if (capture) bucket.context = make_context(loaded, profile);
    if (bucket.graph.ready()) {
      bucket.graph.launch(stream_, loaded.plan.path);
    } else {
      nvinfer1::IExecutionContext& context = capture ? *bucket.context : *contexts_[segment][profile];
      bind(context, loaded, sizes);
      upload();
      enqueue(context, loaded);
      download(loaded, sizes);
    }
    if (pass.hidden_out != nullptr) copy(pass.hidden_out, hidden_out_.data(), bytes_of(loaded.outputs[0], pass.tokens));
    finish(loaded, pass);
    if (!capture) return;
    try {
      const auto issue = [&] {
        upload();
        enqueue(*bucket.context, loaded);
        download(loaded, sizes);
      };
      bucket.graph.capture(stream_, issue, loaded.plan.path + ": capturing a CUDA graph");
    } catch (const Error& error) {  // the pass itself has succeeded, but padding is useless without graphs
      log(REXIT_LOG_WARNING, std::string(error.what()) + "; this session continues without CUDA graphs");
      cuda_graphs_ = false;
      buckets_.clear();
    }
  }

  // Returns the number of bytes to upload: indices and vectors.
  std::size_t write_padded_inputs(const LoadedEngine& loaded, const Pass& pass, const PassSizes& sizes) {
    constexpr std::size_t source = LoadedEngine::source, vectors = LoadedEngine::vectors;
    std::array<std::int64_t*, vectors> indices{};
    std::size_t end = 0;
    for (std::size_t i = loaded.is_first() ? source : LoadedEngine::positions; i <= LoadedEngine::rows; ++i) {
      indices[i] = reinterpret_cast<std::int64_t*>(padded_inputs_.data() + end);
      input_addresses_[i] = device_inputs_.data() + end;
      end += aligned((i == LoadedEngine::rows ? sizes.rows : sizes.tokens) * sizeof(std::int64_t));
    }
    pad_indices(pass, sizes, indices[source], indices[LoadedEngine::positions], indices[LoadedEngine::groups],
                indices[LoadedEngine::rows]);
    if (loaded.takes_vectors()) {
      const std::size_t bytes = bytes_of(loaded.inputs[vectors], pass.vector_rows);
      const std::size_t padded_bytes = bytes_of(loaded.inputs[vectors], sizes.vectors);
      std::memcpy(padded_inputs_.data() + end, pass.vectors, bytes);
      std::memset(padded_inputs_.data() + end + bytes, 0, padded_bytes - bytes);
      input_addresses_[vectors] = device_inputs_.data() + end;
      end += aligned(padded_bytes);
    }
    if (!loaded.is_first()) {
      const std::size_t bytes = bytes_of(loaded.inputs[source], pass.tokens);
      const std::size_t padded_bytes = bytes_of(loaded.inputs[source], sizes.tokens);
      copy(hidden_in_.data(), pass.hidden_in, bytes);
      if (padded_bytes != bytes)
        cuda::check(cudaMemsetAsync(hidden_in_.data() + bytes, 0, padded_bytes - bytes, stream_.get()),
                    loaded.plan.path + ": padding hidden states");
      input_addresses_[source] = hidden_in_.data();
    }
    if (loaded.has_hidden_output()) output_addresses_[0] = hidden_out_.data();
    if (pass.prefix != 0) copy_past(loaded, pass);
    return end;
  }

  // Copies the prefix's keys and values to their fixed addresses. A single copy moves tensors that are adjacent in the cache.
  void copy_past(const LoadedEngine& loaded, const Pass& pass) {
    const std::size_t layers = loaded.layers(), past = loaded.first_past_key();
    const std::size_t bytes = bytes_of(loaded.inputs[past], pass.prefix), stride = aligned(bytes);
    const std::byte* from = nullptr;  // start of the current copy, which ends at the first gap
    std::size_t first = 0;
    for (std::size_t n = 0; n <= 2 * layers; ++n) {
      const void* next = n == 2 * layers ? nullptr : n % 2 == 0 ? pass.past_keys[n / 2] : pass.past_values[n / 2];
      if (n != 0 && next == from + (n - first) * stride) continue;
      if (n != 0) copy(padded_past_.data() + first * stride, from, (n - first - 1) * stride + bytes);
      from = static_cast<const std::byte*>(next);
      first = n;
    }
    for (std::size_t n = 0; n < 2 * layers; ++n)
      input_addresses_[past + n / 2 + (n % 2) * layers] = padded_past_.data() + n * stride;
  }

  struct Bucket {
    std::unique_ptr<nvinfer1::IExecutionContext> context;
    cuda::Graph graph;
    std::uint64_t last_use = 0;
  };
  using BucketKey = std::array<std::size_t, 5>;  // segment, T, P, N, R

  Bucket& bucket_for(const BucketKey& key) {
    if (buckets_.count(key) == 0 && buckets_.size() == max_buckets) {
      const auto less_recent = [](const auto& a, const auto& b) { return a.second.last_use < b.second.last_use; };
      buckets_.erase(std::min_element(buckets_.begin(), buckets_.end(), less_recent));
    }
    return buckets_[key];
  }

  // Empty inputs need an address too. A null output is discarded.
  void clear_addresses(const LoadedEngine& loaded) {
    input_addresses_.assign(loaded.inputs.size(), device_inputs_.data());
    output_addresses_.assign(loaded.outputs.size(), nullptr);
  }

  // TensorRT writes every output: discarded outputs go to unused_outputs_.
  void bind(nvinfer1::IExecutionContext& context, const LoadedEngine& loaded, const PassSizes& sizes) {
    for (std::size_t i = 0; i < input_addresses_.size(); ++i) {
      const TensorSpec& spec = loaded.inputs[i];
      // const_cast: TensorRT only reads its inputs.
      if (!context.setInputShape(spec.name.c_str(), dims_of(spec, sizes.of(spec.dynamic))) ||
          !context.setTensorAddress(spec.name.c_str(), const_cast<void*>(input_addresses_[i])))
        fail_rejected(loaded, spec);
    }
    std::byte* unused = unused_outputs_.data();
    for (std::size_t i = 0; i < output_addresses_.size(); ++i) {
      const TensorSpec& spec = loaded.outputs[i];
      if (output_addresses_[i] == nullptr) {
        output_addresses_[i] = unused;
        unused += aligned(bytes_of(spec, sizes.of(spec.dynamic)));
      }
      if (!context.setTensorAddress(spec.name.c_str(), output_addresses_[i])) fail_rejected(loaded, spec);
    }
  }

  void enqueue(nvinfer1::IExecutionContext& context, const LoadedEngine& loaded) {
    if (!context.enqueueV3(stream_.get()))
      fail(REXIT_BACKEND_FAILED, loaded.plan.path, ": TensorRT could not run the engine: ", take_tensorrt_error());
  }

  void download(const LoadedEngine& loaded, const PassSizes& sizes) {
    cuda::check(cudaMemcpyAsync(host_logits_.data(), output_addresses_[loaded.logits()],
                                bytes_of(loaded.outputs[loaded.logits()], sizes.rows), cudaMemcpyDeviceToHost, stream_.get()),
                loaded.plan.path + ": copying logits");
  }

  void finish(const LoadedEngine& loaded, const Pass& pass) {
    wait(loaded.plan.path);
    std::memcpy(pass.logits, host_logits_.data(), bytes_of(loaded.outputs[loaded.logits()], pass.rows));
  }

  // Gathers indices and vectors in pinned memory and copies them to the device asynchronously. That memory must not be
  // overwritten before the copy has finished, which the next wait for logits guarantees.
  void upload_inputs(const Pass& pass, const LoadedEngine& loaded) {
    const std::size_t tokens = pass.tokens * sizeof(std::int64_t), rows = pass.rows * sizeof(std::int64_t);
    const std::size_t vectors = loaded.takes_vectors() ? bytes_of(loaded.inputs[LoadedEngine::vectors], pass.vector_rows) : 0;
    const std::array<std::pair<const void*, std::size_t>, 5> parts{{{pass.token_ids, loaded.is_first() ? tokens : 0},
                                                                    {pass.positions, tokens},
                                                                    {pass.groups, tokens},
                                                                    {pass.row_index, rows},
                                                                    {pass.vectors, vectors}}};
    std::size_t bytes = 0;
    for (const auto& [data, size] : parts) bytes += aligned(size);
    if (host_inputs_used_ + bytes > host_inputs_.bytes()) wait(loaded.plan.path);
    std::byte* pinned = host_inputs_.data() + host_inputs_used_;
    host_inputs_used_ += bytes;
    std::size_t offset = 0;
    for (std::size_t i = 0; i < parts.size(); ++i) {
      if (parts[i].second != 0) std::memcpy(pinned + offset, parts[i].first, parts[i].second);
      if (i < loaded.first_past_key()) input_addresses_[i] = device_inputs_.data() + offset;
      offset += aligned(parts[i].second);
    }
    cuda::check(cudaMemcpyAsync(device_inputs_.data(), pinned, bytes, cudaMemcpyHostToDevice, stream_.get()),
                loaded.plan.path + ": copying inputs");
  }

  // Hidden states may begin at any row: after a shared prefix, or at the start of a slate's chunk.
  const void* aligned_hidden(const TensorSpec& spec, const Pass& pass) {
    if (is_aligned(pass.hidden_in)) return pass.hidden_in;
    copy(hidden_in_.data(), pass.hidden_in, bytes_of(spec, pass.tokens));
    return hidden_in_.data();
  }

  [[noreturn]] static void fail_rejected(const LoadedEngine& loaded, const TensorSpec& spec) {
    fail(REXIT_BACKEND_FAILED, loaded.plan.path, ": TensorRT rejected tensor `", spec.name, "`: ", take_tensorrt_error());
  }

  const std::vector<LoadedEngine>& engines_;
  bool cuda_graphs_;
  cuda::Stream stream_;
  cuda::DeviceBuffer device_inputs_, unused_outputs_, hidden_in_, hidden_out_, padded_past_, move_buffer_, working_;
  cuda::PinnedBuffer host_inputs_, padded_inputs_, host_logits_;
  std::size_t host_inputs_used_ = 0;          // bytes of host_inputs_ that running copies may read
  std::vector<const void*> input_addresses_;  // of the current pass
  std::vector<void*> output_addresses_;       // of the current pass
  // [segment][profile]. Destroyed before the memory.
  std::vector<std::vector<std::unique_ptr<nvinfer1::IExecutionContext>>> contexts_;
  std::map<BucketKey, Bucket> buckets_;
  std::uint64_t uses_ = 0;
};

// The engines, and an idle worker for the next session: the worker from the open, or that of an ended session.
class WorkerPool {
 public:
  WorkerPool(const Bundle& bundle, std::int32_t device, bool cuda_graphs) : device_(device), cuda_graphs_(cuda_graphs) {
    const cuda::OnDevice on(device_);
    engines_ = std::make_unique<const TensorRtEngines>(bundle, device_);
    idle_worker_ = std::make_unique<Worker>(engines_->all(), cuda_graphs_);
  }
  ~WorkerPool() {
    const cuda::OnDevice on(device_);
    idle_worker_.reset();
    engines_.reset();
  }

  int device() const noexcept { return device_; }

  std::unique_ptr<Worker> take() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (idle_worker_ != nullptr) return std::move(idle_worker_);
    }
    return std::make_unique<Worker>(engines_->all(), cuda_graphs_);
  }
  void put_back(std::unique_ptr<Worker> worker) noexcept {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (idle_worker_ == nullptr) idle_worker_ = std::move(worker);
  }
  void trim() {
    std::unique_ptr<Worker> worker;  // destroyed after the lock
    const std::lock_guard<std::mutex> lock(mutex_);
    worker.swap(idle_worker_);
  }

 private:
  const int device_;
  const bool cuda_graphs_;
  std::unique_ptr<const TensorRtEngines> engines_;
  std::mutex mutex_;
  std::unique_ptr<Worker> idle_worker_;
};

class TensorRtBackend final : public Backend {
 public:
  explicit TensorRtBackend(std::shared_ptr<WorkerPool> pool) : pool_(std::move(pool)) {
    const cuda::OnDevice on(pool_->device());
    worker_ = pool_->take();
  }
  ~TensorRtBackend() override {
    if (worker_ == nullptr) return;
    const cuda::OnDevice on(pool_->device());
    worker_->wait_nothrow();
    pool_->put_back(std::move(worker_));
  }

  void run(std::size_t segment, const Pass& pass) const override {
    const cuda::OnDevice on(pool_->device());
    Worker& worker = this->worker();
    try {
      worker.run(segment, pass);
    } catch (...) {
      worker.wait_nothrow();
      throw;
    }
  }

  void* allocate(std::size_t bytes) const override {
    const cuda::OnDevice on(pool_->device());
    void* memory = nullptr;
    cuda::check(cudaMalloc(&memory, std::max<std::size_t>(bytes, 1)), "device memory of " + cuda::bytes_text(bytes));
    return memory;
  }

  void release(void* memory) const noexcept override {
    if (memory == nullptr) return;
    const cuda::OnDevice on(pool_->device());
    if (worker_ != nullptr) worker_->wait_nothrow();  // work that uses the memory is on this stream
    cudaFree(memory);
  }

  std::size_t tensor_alignment() const noexcept override { return address_alignment; }

  void copy(void* to, const void* from, std::size_t bytes) const override {
    const cuda::OnDevice on(pool_->device());
    worker().copy(to, from, bytes);
  }

  void copy_rows(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch, std::size_t bytes,
                 std::size_t count) const override {
    const cuda::OnDevice on(pool_->device());
    worker().copy_rows(to, to_pitch, from, from_pitch, bytes, count);
  }

  void trim() const override {
    const cuda::OnDevice on(pool_->device());
    if (worker_ != nullptr) worker_->wait_nothrow();
    worker_.reset();
    pool_->trim();
  }

 private:
  // The device must be selected.
  Worker& worker() const {
    if (worker_ == nullptr) worker_ = pool_->take();
    return *worker_;
  }

  std::shared_ptr<WorkerPool> pool_;
  mutable std::unique_ptr<Worker> worker_;  // null after trim(), until the next pass
};

}  // namespace

BackendFactory make_tensorrt_factory(const Bundle& bundle, std::int32_t device_id, bool cuda_graphs) {
  return [pool = std::make_shared<WorkerPool>(bundle, device_id, cuda_graphs)] {
    return std::make_shared<const TensorRtBackend>(pool);
  };
}

}  // namespace rexit::core
