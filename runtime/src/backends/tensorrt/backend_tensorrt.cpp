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

// What one session's passes need besides the engines: a stream, on which everything happens in order, an execution context for
// each profile of each engine, and memory. Everything is allocated at once, for the largest pass that the engines accept.
class Worker {
 public:
  Worker(const std::vector<LoadedEngine>& engines, bool cuda_graphs)
      : engines_(engines), cuda_graphs_(cuda_graphs), stream_("a stream") {
    std::size_t working = 1, indices = 0, spare = 0, hidden = 0, past = 0, answers = 0;
    for (const LoadedEngine& loaded : engines) {
      working = std::max(working, static_cast<std::size_t>(loaded.engine->getDeviceMemorySizeV2()));
      for (const OptimizationProfile& profile : loaded.plan.profiles) {
        const std::size_t tokens = profile.tokens.max, rows = profile.rows.max;
        const std::size_t vectors = loaded.takes_vectors() ? aligned(bytes_of(loaded.inputs[4], tokens)) : 0;
        indices = std::max(indices, 3 * aligned(tokens * sizeof(std::int64_t)) + aligned(rows * sizeof(std::int64_t)) + vectors);
        std::size_t outputs = 0;
        for (std::size_t i = 0; i < loaded.outputs.size(); ++i)
          outputs += aligned(bytes_of(loaded.outputs[i], loaded.outputs[i].dynamic == Dynamic::rows ? rows : tokens));
        spare = std::max(spare, outputs);
        answers = std::max(answers, bytes_of(loaded.outputs[loaded.logits()], rows));
        for (const TensorSpec* spec : {&loaded.inputs[0], &loaded.outputs[0]}) {
          const bool is_hidden = spec == &loaded.inputs[0] ? !loaded.first() : loaded.logits() == 1;
          if (is_hidden && (cuda_graphs || bytes_of(*spec, 1) % address_alignment != 0))
            hidden = std::max(hidden, bytes_of(*spec, tokens));
        }
        past = std::max(past, 2 * loaded.layers() * aligned(bytes_of(loaded.inputs[loaded.caches()], profile.prefix.max)));
      }
    }
    staged_.reserve(2 * indices, "pinned memory for inputs");  // a prefix's and the following slate's
    received_.reserve(answers, "pinned memory for logits");
    placed_.reserve(indices, "device memory for inputs");
    scratch_.reserve(spare, "device memory for outputs");
    hidden_in_.reserve(hidden, "device memory for hidden states");
    hidden_out_.reserve(hidden, "device memory for hidden states");
    if (cuda_graphs) {
      padded_.reserve(indices, "pinned memory for inputs");
      past_.reserve(past, "device memory for keys and values");
    }
    // The contexts run one after another, so they share their working memory.
    working_.reserve(working, "device memory for the engines");
    for (const LoadedEngine& loaded : engines) {
      contexts_.emplace_back();
      // One for each profile: prefix and slate alternate, and a context that switches profiles has to set up its layers again.
      for (std::size_t p = 0; p < loaded.plan.profiles.size(); ++p) contexts_.back().push_back(make_context(loaded, p));
    }
  }

  void run(std::size_t segment, const Pass& pass) {
    const LoadedEngine& loaded = engines_[segment];
    const std::size_t profile = loaded.profile_for(sizes_of(pass));
    forget_tensorrt_error();
    if (cuda_graphs_ && pass.logits != nullptr && pass.new_keys == nullptr)
      run_padded(segment, profile, pass);
    else
      run_unpadded(*contexts_[segment][profile], loaded, pass);
  }

  // CUDA does not copy between overlapping ranges, so those go through a temporary buffer.
  void copy(void* to, const void* from, std::size_t bytes) {
    const auto on_stream = [&](void* a, const void* b) {
      cuda::check(cudaMemcpyAsync(a, b, bytes, cudaMemcpyDefault, stream_.get()), "copying hidden states");
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
    cuda::check(cudaMemcpy2DAsync(to, to_pitch, from, from_pitch, bytes, count, cudaMemcpyDefault, stream_.get()),
                "copying keys and values");
  }

  // Waits until everything issued is done; errors on the GPU are reported here.
  void wait(const std::string& where) {
    staged_bytes_ = 0;
    cuda::check(cudaStreamSynchronize(stream_.get()), where);
  }
  void abandon() noexcept {  // the same, ignoring errors
    staged_bytes_ = 0;
    cudaStreamSynchronize(stream_.get());
  }

 private:
  std::unique_ptr<nvinfer1::IExecutionContext> make_context(const LoadedEngine& loaded, std::size_t profile) {
    forget_tensorrt_error();
    std::unique_ptr<nvinfer1::IExecutionContext> context(
        loaded.engine->createExecutionContext(nvinfer1::ExecutionContextAllocationStrategy::kUSER_MANAGED));
    if (context == nullptr || !context->setOptimizationProfileAsync(static_cast<std::int32_t>(profile), stream_.get()))
      fail(REXIT_BACKEND_FAILED, loaded.plan.path, ": TensorRT could not create an execution context: ", take_tensorrt_error());
    context->setDeviceMemoryV2(working_.data(), static_cast<std::int64_t>(working_.bytes()));
    return context;
  }

  void run_unpadded(nvinfer1::IExecutionContext& context, const LoadedEngine& loaded, const Pass& pass) {
    start(loaded);
    stage(pass, loaded);
    if (!loaded.first()) inputs_[0] = aligned_input(loaded.inputs[0], pass);
    const std::size_t layers = loaded.layers(), logits = loaded.logits();
    for (std::size_t i = 0; pass.prefix != 0 && i < layers; ++i) {
      inputs_[loaded.caches() + i] = pass.past_keys[i];
      inputs_[loaded.caches() + layers + i] = pass.past_values[i];
    }
    const bool beside = logits == 1 && pass.hidden_out != nullptr && !is_aligned(pass.hidden_out);
    if (logits == 1) results_[0] = beside ? hidden_out_.data() : pass.hidden_out;
    for (std::size_t i = 0; pass.new_keys != nullptr && i < layers; ++i) {
      results_[logits + 1 + i] = pass.new_keys[i];
      results_[logits + 1 + layers + i] = pass.new_values[i];
    }
    const PassSizes sizes = sizes_of(pass);
    bind(context, loaded, sizes);
    enqueue(context, loaded);
    if (beside) copy(pass.hidden_out, hidden_out_.data(), bytes_of(loaded.outputs[0], pass.tokens));
    if (pass.logits == nullptr) return;  // whatever reads the other outputs comes later on the stream
    download(loaded, sizes);
    finish(loaded, pass);
  }

  // 1. The pass is padded to one of a few sizes, and everything it reads or writes has a fixed address.
  // 2. A size seen for the first time runs like any pass.
  // 3. Seen again, it gets an execution context of its own, which has to run once before it can be captured and must not be
  // changed
  //    after that; then the copy of the indices, the engine and the copy of the logits are captured as one CUDA graph.
  // 4. From then on it is one launch.
  void run_padded(std::size_t segment, std::size_t profile, const Pass& pass) {
    const LoadedEngine& loaded = engines_[segment];
    const OptimizationProfile& most = loaded.plan.profiles[profile];
    const PassSizes sizes = bucket_of(sizes_of(pass), most.tokens.max, most.rows.max);
    start(loaded);
    const std::size_t bytes = place_padded(loaded, pass, sizes);
    const auto upload = [&] {
      cuda::check(cudaMemcpyAsync(placed_.data(), padded_.data(), bytes, cudaMemcpyHostToDevice, stream_.get()),
                  loaded.plan.path + ": copying inputs");
    };

    Bucket& bucket = bucket_for({segment, sizes.tokens, sizes.prefix, sizes.rows, sizes.vectors});
    const bool again = bucket.last_use != 0, capture = again && !bucket.graph.ready();
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
    } catch (const Error& error) {  // the pass itself has succeeded; without graphs padding is pointless
      log(REXIT_LOG_WARNING, std::string(error.what()) + "; this session continues without CUDA graphs");
      cuda_graphs_ = false;
      buckets_.clear();
    }
  }

  // Returns the bytes of indices and vectors to upload.
  std::size_t place_padded(const LoadedEngine& loaded, const Pass& pass, const PassSizes& sizes) {
    std::array<std::int64_t*, 4> indices{};
    std::size_t at = 0;
    for (std::size_t i = loaded.first() ? 0 : 1; i < 4; ++i) {
      indices[i] = reinterpret_cast<std::int64_t*>(padded_.data() + at);
      inputs_[i] = placed_.data() + at;
      at += aligned((i == 3 ? sizes.rows : sizes.tokens) * sizeof(std::int64_t));
    }
    pad_indices(pass, sizes, indices[0], indices[1], indices[2], indices[3]);
    if (loaded.takes_vectors()) {
      const std::size_t bytes = bytes_of(loaded.inputs[4], pass.vector_rows), all = bytes_of(loaded.inputs[4], sizes.vectors);
      std::memcpy(padded_.data() + at, pass.vectors, bytes);
      std::memset(padded_.data() + at + bytes, 0, all - bytes);
      inputs_[4] = placed_.data() + at;
      at += aligned(all);
    }
    if (!loaded.first()) {
      const std::size_t bytes = bytes_of(loaded.inputs[0], pass.tokens), all = bytes_of(loaded.inputs[0], sizes.tokens);
      copy(hidden_in_.data(), pass.hidden_in, bytes);
      if (all != bytes)
        cuda::check(cudaMemsetAsync(hidden_in_.data() + bytes, 0, all - bytes, stream_.get()),
                    loaded.plan.path + ": padding hidden states");
      inputs_[0] = hidden_in_.data();
    }
    if (loaded.logits() == 1) results_[0] = hidden_out_.data();
    if (pass.prefix == 0) return at;
    // Tensors that are adjacent in the cache, as they are here, go in one copy.
    const std::size_t layers = loaded.layers(), bytes = bytes_of(loaded.inputs[loaded.caches()], pass.prefix),
                      stride = aligned(bytes);
    const std::byte* from = nullptr;  // start of the current copy, which grows as long as tensors are adjacent
    std::size_t first = 0;
    for (std::size_t n = 0; n <= 2 * layers; ++n) {
      const void* next = n == 2 * layers ? nullptr : n % 2 == 0 ? pass.past_keys[n / 2] : pass.past_values[n / 2];
      if (n != 0 && next == from + (n - first) * stride) continue;
      if (n != 0) copy(past_.data() + first * stride, from, (n - first - 1) * stride + bytes);
      from = static_cast<const std::byte*>(next);
      first = n;
    }
    for (std::size_t n = 0; n < 2 * layers; ++n) inputs_[loaded.caches() + n / 2 + (n % 2) * layers] = past_.data() + n * stride;
    return at;
  }

  struct Bucket {
    std::unique_ptr<nvinfer1::IExecutionContext> context;
    cuda::Graph graph;
    std::uint64_t last_use = 0;
  };
  using BucketKey = std::array<std::size_t, 5>;  // segment, T, P, N, R

  Bucket& bucket_for(const BucketKey& key) {
    if (buckets_.count(key) == 0 && buckets_.size() == max_buckets) {
      const auto older = [](const auto& a, const auto& b) { return a.second.last_use < b.second.last_use; };
      buckets_.erase(std::min_element(buckets_.begin(), buckets_.end(), older));
    }
    return buckets_[key];
  }

  // No output wanted yet. Empty inputs need an address too.
  void start(const LoadedEngine& loaded) {
    inputs_.assign(loaded.inputs.size(), placed_.data());
    results_.assign(loaded.outputs.size(), nullptr);
  }

  // TensorRT writes every output: those that are not wanted go to scratch memory.
  void bind(nvinfer1::IExecutionContext& context, const LoadedEngine& loaded, const PassSizes& sizes) {
    for (std::size_t i = 0; i < inputs_.size(); ++i) {
      const TensorSpec& spec = loaded.inputs[i];
      // const_cast: TensorRT only reads its inputs.
      if (!context.setInputShape(spec.name.c_str(), dims_of(spec, sizes.of(spec.dynamic))) ||
          !context.setTensorAddress(spec.name.c_str(), const_cast<void*>(inputs_[i])))
        refused(loaded, spec);
    }
    std::byte* scratch = scratch_.data();
    for (std::size_t i = 0; i < results_.size(); ++i) {
      const TensorSpec& spec = loaded.outputs[i];
      if (results_[i] == nullptr) {
        results_[i] = scratch;
        scratch += aligned(bytes_of(spec, sizes.of(spec.dynamic)));
      }
      if (!context.setTensorAddress(spec.name.c_str(), results_[i])) refused(loaded, spec);
    }
  }

  void enqueue(nvinfer1::IExecutionContext& context, const LoadedEngine& loaded) {
    if (!context.enqueueV3(stream_.get()))
      fail(REXIT_BACKEND_FAILED, loaded.plan.path, ": TensorRT could not run the engine: ", take_tensorrt_error());
  }

  void download(const LoadedEngine& loaded, const PassSizes& sizes) {
    cuda::check(cudaMemcpyAsync(received_.data(), results_[loaded.logits()],
                                bytes_of(loaded.outputs[loaded.logits()], sizes.rows), cudaMemcpyDeviceToHost, stream_.get()),
                loaded.plan.path + ": copying logits");
  }

  void finish(const LoadedEngine& loaded, const Pass& pass) {
    wait(loaded.plan.path);
    std::memcpy(pass.logits, received_.data(), bytes_of(loaded.outputs[loaded.logits()], pass.rows));
  }

  // Indices and vectors are small: gathered in pinned memory, they go to the device in one copy that nothing waits for. That
  // memory must not be written again before the copy is done, which is certain after the next wait for logits.
  void stage(const Pass& pass, const LoadedEngine& loaded) {
    const std::size_t tokens = pass.tokens * sizeof(std::int64_t), rows = pass.rows * sizeof(std::int64_t);
    const std::size_t vectors = loaded.takes_vectors() ? bytes_of(loaded.inputs[4], pass.vector_rows) : 0;
    const std::array<std::pair<const void*, std::size_t>, 5> parts{{{pass.token_ids, loaded.first() ? tokens : 0},
                                                                    {pass.positions, tokens},
                                                                    {pass.groups, tokens},
                                                                    {pass.row_index, rows},
                                                                    {pass.vectors, vectors}}};
    std::size_t bytes = 0;
    for (const auto& [data, size] : parts) bytes += aligned(size);
    if (staged_bytes_ + bytes > staged_.bytes()) wait(loaded.plan.path);
    std::byte* staged = staged_.data() + staged_bytes_;
    staged_bytes_ += bytes;
    std::size_t at = 0;
    for (std::size_t i = 0; i < parts.size(); ++i) {
      if (parts[i].second != 0) std::memcpy(staged + at, parts[i].first, parts[i].second);
      if (i < loaded.caches()) inputs_[i] = placed_.data() + at;
      at += aligned(parts[i].second);
    }
    cuda::check(cudaMemcpyAsync(placed_.data(), staged, bytes, cudaMemcpyHostToDevice, stream_.get()),
                loaded.plan.path + ": copying inputs");
  }

  // Hidden states may begin at any row: behind a shared prefix, or at the start of a slate's chunk.
  const void* aligned_input(const TensorSpec& spec, const Pass& pass) {
    if (is_aligned(pass.hidden_in)) return pass.hidden_in;
    copy(hidden_in_.data(), pass.hidden_in, bytes_of(spec, pass.tokens));
    return hidden_in_.data();
  }

  [[noreturn]] static void refused(const LoadedEngine& loaded, const TensorSpec& spec) {
    fail(REXIT_BACKEND_FAILED, loaded.plan.path, ": TensorRT rejected tensor `", spec.name, "`: ", take_tensorrt_error());
  }

  const std::vector<LoadedEngine>& engines_;
  bool cuda_graphs_;
  cuda::Stream stream_;
  cuda::DeviceBuffer placed_, scratch_, hidden_in_, hidden_out_, past_, between_, working_;
  cuda::PinnedBuffer staged_, padded_, received_;
  std::size_t staged_bytes_ = 0;     // of staged_, in use by copies that may still be running
  std::vector<const void*> inputs_;  // of the current pass, and its outputs
  std::vector<void*> results_;
  std::vector<std::vector<std::unique_ptr<nvinfer1::IExecutionContext>>>
      contexts_;  // [segment][profile]; destroyed before the memory
  std::map<BucketKey, Bucket> buckets_;
  std::uint64_t uses_ = 0;
};

// The engines, and a spare worker for the next session: the one made at open, or that of a session that has ended.
class Shared {
 public:
  Shared(const Bundle& bundle, std::int32_t device, bool cuda_graphs) : device_(device), cuda_graphs_(cuda_graphs) {
    const cuda::OnDevice on(device_);
    engines_ = std::make_unique<const TensorRtEngines>(bundle, device_);
    spare_ = std::make_unique<Worker>(engines_->all(), cuda_graphs_);
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
    return std::make_unique<Worker>(engines_->all(), cuda_graphs_);
  }
  void give(std::unique_ptr<Worker> worker) noexcept {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (spare_ == nullptr) spare_ = std::move(worker);
  }
  void trim() {
    std::unique_ptr<Worker> spare;
    const std::lock_guard<std::mutex> lock(mutex_);
    spare.swap(spare_);
  }

 private:
  const int device_;
  const bool cuda_graphs_;
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
    if (worker_ == nullptr) return;
    const cuda::OnDevice on(shared_->device());
    worker_->abandon();
    shared_->give(std::move(worker_));
  }

  void run(std::size_t segment, const Pass& pass) const override {
    const cuda::OnDevice on(shared_->device());
    Worker& worker = this->worker();
    try {
      worker.run(segment, pass);
    } catch (...) {
      worker.abandon();
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
    if (worker_ != nullptr) worker_->abandon();  // whatever still uses it is on this stream
    cudaFree(memory);
  }

  std::size_t tensor_alignment() const noexcept override { return address_alignment; }

  void copy(void* to, const void* from, std::size_t bytes) const override {
    const cuda::OnDevice on(shared_->device());
    worker().copy(to, from, bytes);
  }

  void copy_rows(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch, std::size_t bytes,
                 std::size_t count) const override {
    const cuda::OnDevice on(shared_->device());
    worker().copy_rows(to, to_pitch, from, from_pitch, bytes, count);
  }

  void trim() const override {
    const cuda::OnDevice on(shared_->device());
    if (worker_ != nullptr) worker_->abandon();
    worker_.reset();
    shared_->trim();
  }

 private:
  // On the device.
  Worker& worker() const {
    if (worker_ == nullptr) worker_ = shared_->take();
    return *worker_;
  }

  std::shared_ptr<Shared> shared_;
  mutable std::unique_ptr<Worker> worker_;  // null since trim(): the next pass makes it again
};

}  // namespace

BackendFactory make_tensorrt_factory(const Bundle& bundle, std::int32_t device_id, bool cuda_graphs) {
  return [shared = std::make_shared<Shared>(bundle, device_id, cuda_graphs)] {
    return std::make_shared<const TensorRtBackend>(shared);
  };
}

}  // namespace rexit::core
