// A stand-in for tests, not NVIDIA's header: the part of CUDA's runtime API that rexit uses, over host memory.
//
// It is stricter than a GPU where that finds mistakes. The host cannot touch device memory: its addresses are mapped without
// access, and the double uses a second mapping of the same pages. Work on a stream is done as late as CUDA allows, when something
// waits for that stream, in the order in which it was issued: also copies from and to host memory that is not pinned, and the
// release of memory to a pool. Streams are independent of each other, and work on the legacy default stream, which would
// synchronise all of them, is a mistake. Copies that overlap, or whose kind does not match their addresses, are refused. A call
// without a current context creates one on the thread's GPU, as CUDA does, and is recorded. Calls are counted.
//
// double.cpp makes a shared library of this header, which rexit opens in place of libcuda, libcudart and libnvinfer.
#ifndef REXIT_TENSORRT_DOUBLE_CUDA_RUNTIME_API_H
#define REXIT_TENSORRT_DOUBLE_CUDA_RUNTIME_API_H

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <iterator>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#define CUDART_VERSION 12060

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorNoDevice = 100,
  cudaErrorInvalidDevice = 101,
  cudaErrorLaunchFailure = 719
};
enum cudaMemcpyKind {
  cudaMemcpyHostToDevice = 1,
  cudaMemcpyDeviceToHost = 2,
  cudaMemcpyDeviceToDevice = 3,
  cudaMemcpyDefault = 4
};
enum cudaDeviceAttr {
  cudaDevAttrIntegrated = 18,
  cudaDevAttrCanMapHostMemory = 19,
  cudaDevAttrComputeCapabilityMajor = 75,
  cudaDevAttrComputeCapabilityMinor = 76,
  cudaDevAttrMemoryPoolsSupported = 115
};
enum cudaMemAllocationType { cudaMemAllocationTypePinned = 1 };
enum cudaMemAllocationHandleType { cudaMemHandleTypeNone = 0 };
enum cudaMemLocationType { cudaMemLocationTypeDevice = 1 };
enum cudaMemPoolAttr { cudaMemPoolAttrReleaseThreshold = 4 };
struct cudaMemLocation {
  cudaMemLocationType type;
  int id;
};
struct cudaMemPoolProps {
  cudaMemAllocationType allocType;
  cudaMemAllocationHandleType handleTypes;
  cudaMemLocation location;
};
struct CUmemPoolHandle_st {
  int device;
  bool keeps = false;
};
using cudaMemPool_t = CUmemPoolHandle_st*;
constexpr unsigned cudaHostAllocDefault = 0, cudaHostAllocMapped = 2;
struct CUstream_st {};
struct CUctx_st;
using cudaStream_t = CUstream_st*;
constexpr unsigned cudaStreamNonBlocking = 1;

namespace cuda_double {

struct Allocation {
  std::size_t bytes, mapped;
  std::byte* alias;
  bool pinned = false;    // host memory that the GPU may address
  bool released = false;  // to its pool, in the order of a stream
};

struct Work {
  cudaStream_t stream;
  std::function<cudaError_t()> work;
  const void* memory = nullptr;  // its working memory, besides what it reads and writes
};

// The machine's properties, for tests to set, and what has been done to it, for tests to inspect.
struct Machine {
  std::mutex mutex;
  int devices = 1, major = 8, minor = 7;
  bool integrated = false, pools = true;
  std::size_t memory = std::size_t{1} << 30;

  std::map<std::uintptr_t, Allocation> allocations;
  std::map<std::uintptr_t, std::size_t> pinned;
  std::map<std::uintptr_t, std::uintptr_t> mapped;  // addresses of pinned memory for the GPU
  std::deque<Work> queue;
  std::size_t allocated = 0, streams = 0, loaded = 0, contexts = 0;  // at present
  std::size_t reserved = 0, pool_count = 0;                          // at present: bytes that pools keep for later
  std::multiset<int> retained;                                       // GPUs whose primary context is retained
  std::set<int> created;                                             // GPUs on which a call without a current context created one
  std::size_t allocation_count = 0, synchronizations = 0, enqueued = 0, contexts_made = 0,
              stalls = 0;  // so far; allocation_count: allocations of either kind; stalls: calls that wait for all streams
  std::map<cudaMemcpyKind, std::size_t> copies, copied;  // so far: calls, bytes
  std::vector<std::string> mistakes;                     // that a GPU might ignore or report later
};

// In double.cpp, once for the tests and the library.
__attribute__((visibility("default"))) Machine& machine();
__attribute__((visibility("default"))) std::vector<int>& current_devices();  // of this thread: a stack of contexts

// Null: none.
inline CUctx_st* current_context() {
  const std::vector<int>& devices = current_devices();
  return devices.empty() ? nullptr : reinterpret_cast<CUctx_st*>(static_cast<std::uintptr_t>(devices.back()) + 1);
}

// At the beginning of whatever needs a context: without one CUDA creates it.
struct Call {
  Call() : lock(machine().mutex) {
    if (current_devices().empty()) machine().created.insert(0);
  }
  std::lock_guard<std::mutex> lock;
};

// Where the double may access [data, data + bytes); null if that is not inside one allocation.
inline std::byte* alias(const void* data, std::size_t bytes) {
  const auto at = reinterpret_cast<std::uintptr_t>(data);
  auto next = machine().allocations.upper_bound(at);
  if (next == machine().allocations.begin()) return nullptr;
  const auto& [begin, allocation] = *--next;
  return !allocation.released && at - begin <= allocation.bytes && bytes <= allocation.bytes - (at - begin)
             ? allocation.alias + (at - begin)
             : nullptr;
}

// Every byte must be of the stated kind of memory.
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

inline void issue(Work work) { machine().queue.push_back(std::move(work)); }

// Does everything issued on this stream; null: on all streams.
inline cudaError_t finish(cudaStream_t stream) {
  std::deque<Work> others, mine;
  for (Work& work : machine().queue) (stream == nullptr || work.stream == stream ? mine : others).push_back(std::move(work));
  machine().queue = std::move(others);
  cudaError_t result = cudaSuccess;
  for (const Work& work : mine) {
    const cudaError_t error = work.work();
    if (error != cudaSuccess) result = error;
  }
  return result;
}

inline cudaError_t mistake(const char* what) {
  machine().mistakes.push_back(what);
  return cudaErrorInvalidValue;
}

inline bool is_stream(cudaStream_t stream) { return reinterpret_cast<std::uintptr_t>(stream) > 2; }  // 1, 2: the default ones

}  // namespace cuda_double

extern "C" {

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

inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  const cuda_double::Machine& machine = cuda_double::machine();
  *value = attribute == cudaDevAttrComputeCapabilityMajor   ? machine.major
           : attribute == cudaDevAttrComputeCapabilityMinor ? machine.minor
           : attribute == cudaDevAttrMemoryPoolsSupported   ? machine.pools
                                                            : machine.integrated;
  return cudaSuccess;
}

}  // extern "C"

namespace cuda_double {

// Memory at two addresses: the GPU's, which the host cannot touch, and an alias.
inline void* map_twice(std::size_t bytes, bool pinned) {
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  const std::size_t mapped = (bytes + page - 1) / page * page;
  const int file = ::memfd_create("device", MFD_CLOEXEC);
  if (file < 0 || ::ftruncate(file, static_cast<off_t>(mapped)) != 0) std::abort();
  void* device = ::mmap(nullptr, mapped, PROT_NONE, MAP_SHARED, file, 0);
  void* twin = ::mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (device == MAP_FAILED || twin == MAP_FAILED) std::abort();
  ::close(file);
  std::memset(twin, 0xff, mapped);  // NaN
  machine().allocations[reinterpret_cast<std::uintptr_t>(device)] = {bytes, mapped, static_cast<std::byte*>(twin), pinned};
  return device;
}

inline void unmap(std::uintptr_t device) {
  const auto allocation = machine().allocations.find(device);
  ::munmap(allocation->second.alias, allocation->second.mapped);
  ::munmap(reinterpret_cast<void*>(device), allocation->second.mapped);
  machine().allocations.erase(allocation);
}

inline cudaError_t allocate(void** data, std::size_t bytes) {
  *data = nullptr;
  ++machine().allocation_count;
  if (bytes == 0 || machine().allocated + bytes > machine().memory) return cudaErrorMemoryAllocation;
  *data = map_twice(bytes, false);
  machine().allocated += bytes;
  return cudaSuccess;
}

// Of memory that is allocated; null: of none.
inline Allocation* find_allocation(void* data) {
  const auto allocation = machine().allocations.find(reinterpret_cast<std::uintptr_t>(data));
  return allocation == machine().allocations.end() || allocation->second.pinned || allocation->second.released
             ? nullptr
             : &allocation->second;
}

}  // namespace cuda_double

extern "C" {

inline cudaError_t cudaMalloc(void** data, std::size_t bytes) {
  const cuda_double::Call call;
  ++cuda_double::machine().stalls;
  return cuda_double::allocate(data, bytes);
}

inline cudaError_t cudaFree(void* data) {
  const cuda_double::Call call;
  cuda_double::Machine& machine = cuda_double::machine();
  if (data == nullptr) return cudaSuccess;
  ++machine.stalls;
  cuda_double::finish(nullptr);
  const cuda_double::Allocation* allocation = cuda_double::find_allocation(data);
  if (allocation == nullptr) return cuda_double::mistake("freed what is no device memory");
  machine.allocated -= allocation->bytes;
  cuda_double::unmap(reinterpret_cast<std::uintptr_t>(data));
  return cudaSuccess;
}

inline cudaError_t cudaMemPoolCreate(cudaMemPool_t* pool, const cudaMemPoolProps* properties) {
  const cuda_double::Call call;
  if (!cuda_double::machine().pools) return cuda_double::mistake("the GPU has no memory pools");
  ++cuda_double::machine().pool_count;
  *pool = new CUmemPoolHandle_st{properties->location.id};
  return cudaSuccess;
}

inline cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, cudaMemPoolAttr, void* value) {
  pool->keeps = *static_cast<const unsigned long long*>(value) != 0;
  return cudaSuccess;
}

inline cudaError_t cudaMemPoolTrimTo(cudaMemPool_t, std::size_t keep) {
  const std::lock_guard<std::mutex> lock(cuda_double::machine().mutex);
  cuda_double::machine().reserved = std::min(cuda_double::machine().reserved, keep);
  return cudaSuccess;
}

inline cudaError_t cudaMemPoolDestroy(cudaMemPool_t pool) {
  const std::lock_guard<std::mutex> lock(cuda_double::machine().mutex);
  --cuda_double::machine().pool_count;
  cuda_double::machine().reserved = 0;
  delete pool;
  return cudaSuccess;
}

inline cudaError_t cudaMallocFromPoolAsync(void** data, std::size_t bytes, cudaMemPool_t pool, cudaStream_t stream) {
  const cuda_double::Call call;
  cuda_double::Machine& machine = cuda_double::machine();
  if (!cuda_double::is_stream(stream)) return cuda_double::mistake("allocated on the legacy stream");
  if (!pool->keeps) return cuda_double::mistake("a pool that returns its memory at every wait");
  const cudaError_t error = cuda_double::allocate(data, bytes);
  if (error == cudaSuccess) machine.reserved -= std::min(machine.reserved, bytes);
  return error;
}

inline cudaError_t cudaFreeAsync(void* data, cudaStream_t stream) {
  const cuda_double::Call call;
  cuda_double::Machine& machine = cuda_double::machine();
  cuda_double::Allocation* allocation = cuda_double::find_allocation(data);
  if (!cuda_double::is_stream(stream) || allocation == nullptr) return cuda_double::mistake("freed what is no device memory");
  allocation->released = true;
  machine.allocated -= allocation->bytes;
  cuda_double::issue({stream, [device = reinterpret_cast<std::uintptr_t>(data)] {
                        cuda_double::machine().reserved += cuda_double::machine().allocations.at(device).bytes;
                        cuda_double::unmap(device);
                        return cudaSuccess;
                      }});
  return cudaSuccess;
}

inline cudaError_t cudaHostAlloc(void** data, std::size_t bytes, unsigned flags) {
  const cuda_double::Call call;
  cuda_double::Machine& machine = cuda_double::machine();
  ++machine.allocation_count;
  if (flags == cudaHostAllocMapped) {
    const auto device = reinterpret_cast<std::uintptr_t>(cuda_double::map_twice(bytes, true));
    *data = machine.allocations.at(device).alias;
    machine.mapped[reinterpret_cast<std::uintptr_t>(*data)] = device;
  } else {
    *data = std::malloc(bytes);  // the GPU cannot address it
  }
  machine.pinned[reinterpret_cast<std::uintptr_t>(*data)] = bytes;
  return cudaSuccess;
}

inline cudaError_t cudaHostGetDevicePointer(void** device, void* host, unsigned) {
  const std::lock_guard<std::mutex> lock(cuda_double::machine().mutex);
  const auto mapped = cuda_double::machine().mapped.find(reinterpret_cast<std::uintptr_t>(host));
  if (mapped == cuda_double::machine().mapped.end()) return cuda_double::mistake("host memory that is not mapped");
  *device = reinterpret_cast<void*>(mapped->second);
  return cudaSuccess;
}

inline cudaError_t cudaFreeHost(void* data) {
  const cuda_double::Call call;
  cuda_double::Machine& machine = cuda_double::machine();
  if (data == nullptr) return cudaSuccess;
  cuda_double::finish(nullptr);
  const auto host = reinterpret_cast<std::uintptr_t>(data);
  if (machine.pinned.erase(host) == 0) return cuda_double::mistake("freed what is no pinned memory");
  if (const auto mapped = machine.mapped.find(host); mapped != machine.mapped.end()) {
    cuda_double::unmap(mapped->second);
    machine.mapped.erase(mapped);
  } else {
    std::free(data);
  }
  return cudaSuccess;
}

inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  if (flags != cudaStreamNonBlocking) return cuda_double::mistake("made a stream that waits for the legacy one");
  const cuda_double::Call call;
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
  const cuda_double::Call call;
  ++cuda_double::machine().synchronizations;
  return cuda_double::finish(stream);
}

inline cudaError_t cudaMemcpy2DAsync(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch, std::size_t width,
                                     std::size_t height, cudaMemcpyKind kind, cudaStream_t stream) {
  const cuda_double::Call call;
  cuda_double::Machine& machine = cuda_double::machine();
  if (!cuda_double::is_stream(stream)) return cuda_double::mistake("copied on the legacy stream");
  if (width > to_pitch || width > from_pitch) return cuda_double::mistake("copied rows wider than their pitch");
  if (width == 0 || height == 0) return cudaSuccess;
  const std::size_t to_bytes = (height - 1) * to_pitch + width, from_bytes = (height - 1) * from_pitch + width;
  const bool any = kind == cudaMemcpyDefault;  // as the addresses say; then host memory need not be pinned
  if (any)
    kind = !cuda_double::on_device(to)     ? cudaMemcpyDeviceToHost
           : !cuda_double::on_device(from) ? cudaMemcpyHostToDevice
                                           : cudaMemcpyDeviceToDevice;
  const bool to_device = kind != cudaMemcpyDeviceToHost, from_device = kind != cudaMemcpyHostToDevice;
  if (to_device ? cuda_double::alias(to, to_bytes) == nullptr : cuda_double::on_device(to))
    return cuda_double::mistake("copied to the wrong kind of memory, or beyond its end");
  if (from_device ? cuda_double::alias(from, from_bytes) == nullptr : cuda_double::on_device(from))
    return cuda_double::mistake("copied from the wrong kind of memory, or beyond its end");
  const auto a = reinterpret_cast<std::uintptr_t>(to), b = reinterpret_cast<std::uintptr_t>(from);
  if (a < b + from_bytes && b < a + to_bytes) return cuda_double::mistake("copied between overlapping ranges");
  if (!any &&
      ((!to_device && !cuda_double::is_pinned(to, to_bytes)) || (!from_device && !cuda_double::is_pinned(from, from_bytes))))
    return cuda_double::mistake("copied from or to memory that is not pinned");
  ++machine.copies[kind];
  machine.copied[kind] += width * height;
  std::byte* target = to_device ? cuda_double::alias(to, to_bytes) : static_cast<std::byte*>(to);
  const std::byte* source = from_device ? cuda_double::alias(from, from_bytes) : static_cast<const std::byte*>(from);
  cuda_double::issue({stream, [=] {
                        for (std::size_t i = 0; i < height; ++i)
                          std::memcpy(target + i * to_pitch, source + i * from_pitch, width);
                        return cudaSuccess;
                      }});
  return cudaSuccess;
}

inline cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  return cudaMemcpy2DAsync(to, bytes, from, bytes, bytes, 1, kind, stream);
}

inline cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t stream) {
  const cuda_double::Call call;
  std::byte* target = cuda_double::alias(to, bytes);
  if (!cuda_double::is_stream(stream) || target == nullptr) return cuda_double::mistake("set memory at the wrong place");
  cuda_double::issue({stream, [=] {
                        std::memset(target, value, bytes);
                        return cudaSuccess;
                      }});
  return cudaSuccess;
}

// The driver's, as cuda.h declares them; an error is not 0.

inline int cuInit(unsigned) { return 0; }
inline int cuDeviceGet(int* device, int number) {
  *device = number;
  return number < cuda_double::machine().devices ? 0 : 101;
}
inline int cuDevicePrimaryCtxRetain(CUctx_st** context, int device) {
  const std::lock_guard<std::mutex> lock(cuda_double::machine().mutex);
  cuda_double::machine().retained.insert(device);
  *context = reinterpret_cast<CUctx_st*>(static_cast<std::uintptr_t>(device) + 1);
  return 0;
}
inline int cuDevicePrimaryCtxRelease_v2(int device) {
  const std::lock_guard<std::mutex> lock(cuda_double::machine().mutex);
  const auto retained = cuda_double::machine().retained.find(device);
  if (retained == cuda_double::machine().retained.end()) return 201;
  cuda_double::machine().retained.erase(retained);
  return 0;
}
inline int cuCtxPushCurrent_v2(CUctx_st* context) {
  cuda_double::current_devices().push_back(static_cast<int>(reinterpret_cast<std::uintptr_t>(context)) - 1);
  return 0;
}
inline int cuCtxPopCurrent_v2(CUctx_st** context) {
  if (cuda_double::current_devices().empty()) return 201;
  *context = reinterpret_cast<CUctx_st*>(static_cast<std::uintptr_t>(cuda_double::current_devices().back()) + 1);
  cuda_double::current_devices().pop_back();
  return 0;
}

}  // extern "C"

#endif
