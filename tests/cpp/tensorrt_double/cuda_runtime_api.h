// A stand-in for tests, not NVIDIA's header: the part of CUDA's runtime API that rexit uses, over the host's memory.
//
// It is stricter than a GPU where that finds mistakes. Device memory cannot be touched by the host: its addresses are mapped
// without access, the double works on a second mapping of the same pages. Work on streams is done as late as CUDA allows, when
// somebody waits for it, in the order in which it was issued. Copies are refused whose kind does not fit their addresses, or that
// overlap.
#ifndef REXIT_TENSORRT_DOUBLE_CUDA_RUNTIME_API_H
#define REXIT_TENSORRT_DOUBLE_CUDA_RUNTIME_API_H

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <vector>

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorNoDevice = 100,
  cudaErrorInvalidDevice = 101,
  cudaErrorLaunchFailure = 719
};
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2, cudaMemcpyDeviceToDevice = 3 };
enum cudaDeviceAttr { cudaDevAttrComputeCapabilityMajor = 75, cudaDevAttrComputeCapabilityMinor = 76 };
struct CUstream_st {};
using cudaStream_t = CUstream_st*;
#define cudaStreamLegacy (reinterpret_cast<cudaStream_t>(1))

namespace cuda_double {

struct Allocation {
  std::size_t bytes, mapped;
  std::byte* alias;
};

struct Work {
  cudaStream_t stream;
  std::function<cudaError_t()> work;
};

// What the machine is, for tests to set, and what has been done to it, for tests to look at.
struct Machine {
  std::mutex mutex;
  int devices = 1, major = 8, minor = 7;
  std::size_t memory = std::size_t{1} << 30;

  std::map<std::uintptr_t, Allocation> allocations;
  std::map<std::uintptr_t, std::size_t> pinned;
  std::deque<Work> queue;
  std::size_t allocated = 0, streams = 0, synchronizations = 0, enqueued = 0, loaded = 0, contexts = 0;
  std::map<cudaMemcpyKind, std::size_t> copied;  // bytes
  std::vector<std::string> mistakes;             // that a GPU might forgive or punish later
};

inline Machine& machine() {
  static Machine only;
  return only;
}

inline int& device_of_this_thread() {
  thread_local int device = 0;
  return device;
}

// Where the double may touch [data, data + bytes); null when that is not inside one allocation.
inline std::byte* alias(const void* data, std::size_t bytes) {
  const auto at = reinterpret_cast<std::uintptr_t>(data);
  auto next = machine().allocations.upper_bound(at);
  if (next == machine().allocations.begin()) return nullptr;
  const auto& [begin, found] = *--next;
  return at - begin <= found.bytes && bytes <= found.bytes - (at - begin) ? found.alias + (at - begin) : nullptr;
}

// Device memory may not lie about its kind by as much as a byte.
inline bool on_device(const void* data) {
  const auto at = reinterpret_cast<std::uintptr_t>(data);
  auto next = machine().allocations.upper_bound(at);
  return next != machine().allocations.begin() && at - std::prev(next)->first < std::prev(next)->second.mapped;
}

inline bool is_pinned(const void* data, std::size_t bytes) {
  const auto at = reinterpret_cast<std::uintptr_t>(data);
  auto next = machine().pinned.upper_bound(at);
  if (next == machine().pinned.begin()) return false;
  --next;
  return at - next->first <= next->second && bytes <= next->second - (at - next->first);
}

// Everything issued up to this stream's last work; all of it for a null stream.
inline cudaError_t finish(cudaStream_t stream) {
  std::deque<Work>& queue = machine().queue;
  std::size_t count = queue.size();
  if (stream != nullptr)
    while (count > 0 && queue[count - 1].stream != stream) --count;
  cudaError_t result = cudaSuccess;
  for (; count > 0; --count) {
    const cudaError_t error = queue.front().work();
    if (error != cudaSuccess && queue.front().stream == stream) result = error;
    queue.pop_front();
  }
  return result;
}

inline cudaError_t mistake(const char* what) {
  machine().mistakes.push_back(what);
  return cudaErrorInvalidValue;
}

}  // namespace cuda_double

inline const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorNoDevice:
      return "no CUDA-capable device is detected";
    case cudaErrorLaunchFailure:
      return "unspecified launch failure";
    default:
      return "invalid argument";
  }
}

inline cudaError_t cudaGetLastError() { return cudaSuccess; }

inline cudaError_t cudaGetDeviceCount(int* count) {
  *count = cuda_double::machine().devices;
  return *count == 0 ? cudaErrorNoDevice : cudaSuccess;
}

inline cudaError_t cudaGetDevice(int* device) {
  *device = cuda_double::device_of_this_thread();
  return cudaSuccess;
}

inline cudaError_t cudaSetDevice(int device) {
  if (device >= cuda_double::machine().devices) return cudaErrorInvalidDevice;
  cuda_double::device_of_this_thread() = device;
  return cudaSuccess;
}

inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrComputeCapabilityMajor ? cuda_double::machine().major : cuda_double::machine().minor;
  return cudaSuccess;
}

inline cudaError_t cudaMalloc(void** data, std::size_t bytes) {
  cuda_double::Machine& machine = cuda_double::machine();
  const std::lock_guard<std::mutex> lock(machine.mutex);
  *data = nullptr;
  if (bytes == 0 || machine.allocated + bytes > machine.memory) return cudaErrorMemoryAllocation;
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  const std::size_t mapped = (bytes + page - 1) / page * page;
  const int file = ::memfd_create("device", MFD_CLOEXEC);
  if (file < 0 || ::ftruncate(file, static_cast<off_t>(mapped)) != 0) std::abort();
  void* device = ::mmap(nullptr, mapped, PROT_NONE, MAP_SHARED, file, 0);
  void* twin = ::mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (device == MAP_FAILED || twin == MAP_FAILED) std::abort();
  ::close(file);
  std::memset(twin, 0xff, mapped);  // no number
  machine.allocations[reinterpret_cast<std::uintptr_t>(device)] = {bytes, mapped, static_cast<std::byte*>(twin)};
  machine.allocated += bytes;
  *data = device;
  return cudaSuccess;
}

inline cudaError_t cudaFree(void* data) {
  cuda_double::Machine& machine = cuda_double::machine();
  const std::lock_guard<std::mutex> lock(machine.mutex);
  if (data == nullptr) return cudaSuccess;
  cuda_double::finish(nullptr);
  const auto found = machine.allocations.find(reinterpret_cast<std::uintptr_t>(data));
  if (found == machine.allocations.end()) return cuda_double::mistake("freed what is no device memory");
  machine.allocated -= found->second.bytes;
  ::munmap(found->second.alias, found->second.mapped);
  ::munmap(data, found->second.mapped);
  machine.allocations.erase(found);
  return cudaSuccess;
}

inline cudaError_t cudaMallocHost(void** data, std::size_t bytes) {
  cuda_double::Machine& machine = cuda_double::machine();
  const std::lock_guard<std::mutex> lock(machine.mutex);
  *data = std::malloc(bytes);
  machine.pinned[reinterpret_cast<std::uintptr_t>(*data)] = bytes;
  return cudaSuccess;
}

inline cudaError_t cudaFreeHost(void* data) {
  cuda_double::Machine& machine = cuda_double::machine();
  const std::lock_guard<std::mutex> lock(machine.mutex);
  if (data == nullptr) return cudaSuccess;
  cuda_double::finish(nullptr);
  if (machine.pinned.erase(reinterpret_cast<std::uintptr_t>(data)) == 0)
    return cuda_double::mistake("freed what is no pinned memory");
  std::free(data);
  return cudaSuccess;
}

inline cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  const std::lock_guard<std::mutex> lock(cuda_double::machine().mutex);
  ++cuda_double::machine().streams;
  *stream = new CUstream_st;
  return cudaSuccess;
}

inline cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const std::lock_guard<std::mutex> lock(cuda_double::machine().mutex);
  cuda_double::finish(stream);
  --cuda_double::machine().streams;
  delete stream;
  return cudaSuccess;
}

inline cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  const std::lock_guard<std::mutex> lock(cuda_double::machine().mutex);
  ++cuda_double::machine().synchronizations;
  return cuda_double::finish(stream);
}

inline cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  cuda_double::Machine& machine = cuda_double::machine();
  const std::lock_guard<std::mutex> lock(machine.mutex);
  if (bytes == 0) return cudaSuccess;
  const bool to_device = kind != cudaMemcpyDeviceToHost, from_device = kind != cudaMemcpyHostToDevice;
  if (to_device ? cuda_double::alias(to, bytes) == nullptr : cuda_double::on_device(to))
    return cuda_double::mistake("copied to the wrong kind of memory, or beyond its end");
  if (from_device ? cuda_double::alias(from, bytes) == nullptr : cuda_double::on_device(from))
    return cuda_double::mistake("copied from the wrong kind of memory, or beyond its end");
  const auto a = reinterpret_cast<std::uintptr_t>(to), b = reinterpret_cast<std::uintptr_t>(from);
  if ((a < b ? b - a : a - b) < bytes) return cuda_double::mistake("copied between overlapping ranges");
  if (!to_device && !cuda_double::is_pinned(to, bytes)) return cuda_double::mistake("copied to memory that is not pinned");
  if (!from_device && !cuda_double::is_pinned(from, bytes)) return cuda_double::mistake("copied from memory that is not pinned");
  machine.copied[kind] += bytes;
  std::byte* target = to_device ? cuda_double::alias(to, bytes) : static_cast<std::byte*>(to);
  const std::byte* source = from_device ? cuda_double::alias(from, bytes) : static_cast<const std::byte*>(from);
  machine.queue.push_back({stream, [=] {
                             std::memcpy(target, source, bytes);
                             return cudaSuccess;
                           }});
  return cudaSuccess;
}

#endif
