#include "backends/tensorrt/backend_tensorrt.hpp"

#include <algorithm>
#include <atomic>
#include <memory>
#include <mutex>
#include <utility>

#include "backends/nvidia/cuda.hpp"
#include "backends/tensorrt/tensorrt_engines.hpp"
#include "backends/tensorrt/worker.hpp"

namespace rexit::core {
namespace {

// The engines, and an idle worker for the next session: the worker from the open, or that of an ended session.
class WorkerPool {
 public:
  WorkerPool(const Bundle& bundle, std::int32_t device) : accelerator_(find_accelerator(device)), device_(device) {
    const cuda::OnDevice on(device_);
    memory_ = std::make_unique<cuda::DeviceMemory>(device_);
    engines_ = std::make_unique<const TensorRtEngines>(bundle, accelerator_);
    idle_worker_ = make_worker();
  }
  ~WorkerPool() {
    const cuda::OnDevice on(device_);
    idle_worker_.reset();
    engines_.reset();
    memory_.reset();
  }

  const cuda::Device& device() const noexcept { return device_; }
  cuda::DeviceMemory& memory() const noexcept { return *memory_; }

  std::unique_ptr<Worker> acquire_worker() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (idle_worker_ != nullptr) return std::move(idle_worker_);
    }
    return make_worker();
  }
  void return_worker(std::unique_ptr<Worker> worker) noexcept {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (idle_worker_ == nullptr) idle_worker_ = std::move(worker);
  }
  void trim() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (idle_worker_ != nullptr) idle_worker_->release_memory();
    memory_->trim();
  }

 private:
  std::unique_ptr<Worker> make_worker() const { return std::make_unique<Worker>(device_, *memory_, engines_->all()); }

  const Accelerator accelerator_;
  const cuda::Device device_;
  std::unique_ptr<cuda::DeviceMemory> memory_;
  std::unique_ptr<const TensorRtEngines> engines_;
  std::mutex mutex_;
  std::unique_ptr<Worker> idle_worker_;
};

class TensorRtBackend final : public Backend {
 public:
  explicit TensorRtBackend(std::shared_ptr<WorkerPool> pool) : pool_(std::move(pool)) {
    const cuda::OnDevice on(pool_->device());
    worker_ = pool_->acquire_worker();
    gpu_bytes_ = worker_->device_bytes();
  }
  ~TensorRtBackend() override {
    const cuda::OnDevice on(pool_->device());
    worker_->wait_nothrow();
    pool_->return_worker(std::move(worker_));
  }

  void run(std::size_t segment, const Pass& pass) const override {
    const cuda::OnDevice on(pool_->device());
    try {
      worker_->run(segment, pass);
    } catch (...) {
      worker_->wait_nothrow();
      throw;
    }
    gpu_bytes_ = worker_->device_bytes();
  }

  void* allocate(std::size_t bytes) const override {
    const cuda::OnDevice on(pool_->device());
    return pool_->memory().allocate(std::max<std::size_t>(bytes, 1), worker_->stream(),
                                    "device memory of " + cuda::bytes_text(bytes));
  }

  void release(void* memory) const noexcept override {
    if (memory == nullptr) return;
    const cuda::OnDevice on(pool_->device());
    pool_->memory().release(memory, worker_->stream());  // all work that uses it is on this stream
  }

  std::size_t tensor_alignment() const noexcept override { return address_alignment; }

  void copy(void* to, const void* from, std::size_t bytes) const override {
    const cuda::OnDevice on(pool_->device());
    worker_->copy(to, from, bytes);
  }

  void copy_rows(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch, std::size_t bytes,
                 std::size_t count) const override {
    const cuda::OnDevice on(pool_->device());
    worker_->copy_rows(to, to_pitch, from, from_pitch, bytes, count);
  }

  void move_rows(void* rows, std::size_t bytes, const RowMove* moves, std::size_t count) const override {
    const cuda::OnDevice on(pool_->device());
    worker_->move_rows(rows, bytes, moves, count);
  }

  void finish_copies() const override {
    const cuda::OnDevice on(pool_->device());
    worker_->wait("copying to or from host memory");
  }

  void trim() const override {
    const cuda::OnDevice on(pool_->device());
    worker_->release_memory();
    gpu_bytes_ = worker_->device_bytes();
    pool_->trim();
  }
  std::size_t gpu_bytes() const override { return gpu_bytes_; }

 private:
  std::shared_ptr<WorkerPool> pool_;
  std::unique_ptr<Worker> worker_;
  mutable std::atomic<std::size_t> gpu_bytes_{0};  // any thread may ask
};

}  // namespace

BackendFactory make_tensorrt_factory(const Bundle& bundle, std::int32_t device_id) {
  return [pool = std::make_shared<WorkerPool>(bundle, device_id)] { return std::make_shared<const TensorRtBackend>(pool); };
}

}  // namespace rexit::core
