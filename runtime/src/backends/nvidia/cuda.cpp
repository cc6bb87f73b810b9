#include "backends/nvidia/cuda.hpp"

#include <cstdint>
#include <limits>

namespace rexit::core::cuda {
namespace {

int attribute(cudaDeviceAttr name, int device) {
  int value = 0;
  check(api().cudaDeviceGetAttribute(&value, name, device), "asking for the GPU's properties");
  return value;
}

void check_driver(int result, const char* action) {
  if (result != 0) fail(REXIT_BACKEND_FAILED, action, ": the NVIDIA driver returned error ", result);
}

}  // namespace

Device::Device(int number)
    : number_(number),
      integrated_(attribute(cudaDevAttrIntegrated, number) != 0 && attribute(cudaDevAttrCanMapHostMemory, number) != 0),
      has_memory_pools_(attribute(cudaDevAttrMemoryPoolsSupported, number) != 0) {
  const Api& driver = api();
  check_driver(driver.cuInit(0), "starting CUDA");
  check_driver(driver.cuDeviceGet(&handle_, number), "selecting the GPU");
  check_driver(driver.cuDevicePrimaryCtxRetain(&context_, handle_), "creating the GPU's context");
}

Device::~Device() { api().cuDevicePrimaryCtxRelease_v2(handle_); }

DeviceMemory::DeviceMemory(const Device& device) {
  if (!device.has_memory_pools()) return;
  cudaMemPoolProps properties{};
  properties.allocType = cudaMemAllocationTypePinned;
  properties.handleTypes = cudaMemHandleTypeNone;
  properties.location.type = cudaMemLocationTypeDevice;
  properties.location.id = device.number();
  check(api().cudaMemPoolCreate(&pool_, &properties), "creating a memory pool");
  // By default the pool would return its memory at every wait.
  std::uint64_t threshold = std::numeric_limits<std::uint64_t>::max();
  check(api().cudaMemPoolSetAttribute(pool_, cudaMemPoolAttrReleaseThreshold, &threshold), "creating a memory pool");
}

DeviceMemory::~DeviceMemory() {
  if (pool_ != nullptr) api().cudaMemPoolDestroy(pool_);
}

void* DeviceMemory::allocate(std::size_t bytes, const Stream& stream, const std::string& what) {
  void* memory = nullptr;
  check(pool_ != nullptr ? api().cudaMallocFromPoolAsync(&memory, bytes, pool_, stream.get()) : api().cudaMalloc(&memory, bytes),
        what);
  return memory;
}

void DeviceMemory::release(void* memory, const Stream& stream) noexcept {
  if (pool_ != nullptr) {
    api().cudaFreeAsync(memory, stream.get());
  } else {
    api().cudaStreamSynchronize(stream.get());
    api().cudaFree(memory);
  }
}

void DeviceMemory::trim() noexcept {
  if (pool_ != nullptr) api().cudaMemPoolTrimTo(pool_, 0);
}

void MirroredBuffer::reserve(std::size_t bytes, const std::string& what) {
  if (bytes <= bytes_) return;
  release();
  const std::string action = what + " of " + bytes_text(bytes);
  check(api().cudaHostAlloc(&host_, bytes, mapped_ ? cudaHostAllocMapped : cudaHostAllocDefault), "pinned " + action);
  if (mapped_)
    check(api().cudaHostGetDevicePointer(&alias_, host_, 0), "mapping " + action);
  else
    mirror_.reserve(bytes, "device " + what);
  bytes_ = bytes;
}

void MirroredBuffer::release() noexcept {
  mirror_.release();
  if (host_ != nullptr) api().cudaFreeHost(std::exchange(host_, nullptr));
  alias_ = nullptr;
  bytes_ = 0;
}

void MirroredBuffer::upload(std::size_t offset, std::size_t bytes, const std::string& action) const {
  if (!mapped_)
    check(api().cudaMemcpyAsync(device() + offset, host() + offset, bytes, cudaMemcpyHostToDevice, stream_.get()), action);
}

void MirroredBuffer::download(std::size_t bytes, const std::string& action) const {
  if (!mapped_) check(api().cudaMemcpyAsync(host(), device(), bytes, cudaMemcpyDeviceToHost, stream_.get()), action);
}

}  // namespace rexit::core::cuda
