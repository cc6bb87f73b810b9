// A stand-in for tests, not NVIDIA's header: the part of CUDA's runtime API that rexit uses, over host memory.
//
// It is stricter than a GPU where that finds mistakes. The host cannot touch device memory: its addresses are mapped without
// access, and the double uses a second mapping of the same pages. Work on a stream is done as late as CUDA allows, when something
// waits for that stream, in the order in which it was issued; streams are independent of each other, and work on the legacy
// default stream, which would synchronise all of them, is a mistake. Copies that overlap, or whose kind does not match their
// addresses, are refused. Calls are counted.
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
enum cudaMemcpyKind {
  cudaMemcpyHostToDevice = 1,
  cudaMemcpyDeviceToHost = 2,
  cudaMemcpyDeviceToDevice = 3,
  cudaMemcpyDefault = 4
};
enum cudaDeviceAttr { cudaDevAttrComputeCapabilityMajor = 75, cudaDevAttrComputeCapabilityMinor = 76 };
struct CUstream_st {};
using cudaStream_t = CUstream_st*;
enum cudaStreamCaptureMode { cudaStreamCaptureModeGlobal = 0, cudaStreamCaptureModeThreadLocal = 1 };
constexpr unsigned cudaStreamNonBlocking = 1;

namespace cuda_double {

struct Allocation {
  std::size_t bytes, mapped;
  std::byte* alias;
};

struct Work {
  cudaStream_t stream;
  std::function<cudaError_t()> work;
  const void* memory = nullptr;  // its working memory, besides what it reads and writes
};

}  // namespace cuda_double

// A graph is its work, and so is an executable graph.
struct CUgraph_st {
  std::deque<cuda_double::Work> work;
};
struct CUgraphExec_st : CUgraph_st {};
using cudaGraph_t = CUgraph_st*;
using cudaGraphExec_t = CUgraphExec_st*;

namespace cuda_double {

// The machine's properties, for tests to set, and what has been done to it, for tests to inspect.
struct Machine {
  std::mutex mutex;
  int devices = 1, major = 8, minor = 7;
  std::size_t memory = std::size_t{1} << 30;

  std::map<std::uintptr_t, Allocation> allocations;
  std::map<std::uintptr_t, std::size_t> pinned;
  std::deque<Work> queue;
  std::map<cudaStream_t, std::deque<Work>> captured;                             // by streams that are capturing
  bool captures = true;                                                          // false: no graph can be made
  std::size_t allocated = 0, streams = 0, loaded = 0, contexts = 0, graphs = 0;  // at present
  std::size_t allocation_count = 0, synchronizations = 0, enqueued = 0,
              launched = 0;                              // so far; allocation_count: allocations of either kind
  std::map<cudaMemcpyKind, std::size_t> copies, copied;  // so far: calls, bytes
  std::vector<std::string> mistakes;                     // that a GPU might ignore or report later
};

inline Machine& machine() {
  static Machine only;
  return only;
}

inline int& device_of_this_thread() {
  thread_local int device = 0;
  return device;
}

// Where the double may access [data, data + bytes); null if that is not inside one allocation.
inline std::byte* alias(const void* data, std::size_t bytes) {
  const auto at = reinterpret_cast<std::uintptr_t>(data);
  auto next = machine().allocations.upper_bound(at);
  if (next == machine().allocations.begin()) return nullptr;
  const auto& [begin, allocation] = *--next;
  return at - begin <= allocation.bytes && bytes <= allocation.bytes - (at - begin) ? allocation.alias + (at - begin) : nullptr;
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

inline bool capturing(cudaStream_t stream) { return machine().captured.count(stream) != 0; }

// Issues work, or adds it to the graph that the stream is capturing.
inline void issue(Work work) {
  (capturing(work.stream) ? machine().captured[work.stream] : machine().queue).push_back(std::move(work));
}

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
  ++machine.allocation_count;
  if (!machine.captured.empty()) return cuda_double::mistake("allocated while a stream captures");
  if (bytes == 0 || machine.allocated + bytes > machine.memory) return cudaErrorMemoryAllocation;
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  const std::size_t mapped = (bytes + page - 1) / page * page;
  const int file = ::memfd_create("device", MFD_CLOEXEC);
  if (file < 0 || ::ftruncate(file, static_cast<off_t>(mapped)) != 0) std::abort();
  void* device = ::mmap(nullptr, mapped, PROT_NONE, MAP_SHARED, file, 0);
  void* twin = ::mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (device == MAP_FAILED || twin == MAP_FAILED) std::abort();
  ::close(file);
  std::memset(twin, 0xff, mapped);  // NaN
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
  const auto allocation = machine.allocations.find(reinterpret_cast<std::uintptr_t>(data));
  if (allocation == machine.allocations.end()) return cuda_double::mistake("freed what is no device memory");
  machine.allocated -= allocation->second.bytes;
  ::munmap(allocation->second.alias, allocation->second.mapped);
  ::munmap(data, allocation->second.mapped);
  machine.allocations.erase(allocation);
  return cudaSuccess;
}

inline cudaError_t cudaMallocHost(void** data, std::size_t bytes) {
  cuda_double::Machine& machine = cuda_double::machine();
  const std::lock_guard<std::mutex> lock(machine.mutex);
  ++machine.allocation_count;
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

inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  if (flags != cudaStreamNonBlocking) return cuda_double::mistake("made a stream that waits for the legacy one");
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
  if (cuda_double::capturing(stream)) return cuda_double::mistake("waited for a stream that captures");
  ++cuda_double::machine().synchronizations;
  return cuda_double::finish(stream);
}

inline cudaError_t cudaMemcpy2DAsync(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch, std::size_t width,
                                     std::size_t height, cudaMemcpyKind kind, cudaStream_t stream) {
  cuda_double::Machine& machine = cuda_double::machine();
  const std::lock_guard<std::mutex> lock(machine.mutex);
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
  const bool waits = !to_device && !cuda_double::is_pinned(to, to_bytes);
  const bool stages = !from_device && !cuda_double::is_pinned(from, from_bytes);
  if (waits && !any) return cuda_double::mistake("copied to memory that is not pinned");
  if (stages && !any) return cuda_double::mistake("copied from memory that is not pinned");
  ++machine.copies[kind];
  machine.copied[kind] += width * height;
  std::byte* target = to_device ? cuda_double::alias(to, to_bytes) : static_cast<std::byte*>(to);
  const std::byte* source = from_device ? cuda_double::alias(from, from_bytes) : static_cast<const std::byte*>(from);
  const std::vector<std::byte> staged = stages ? std::vector<std::byte>(source, source + from_bytes) : std::vector<std::byte>();
  cuda_double::issue({stream, [=] {
                        for (std::size_t i = 0; i < height; ++i)
                          std::memcpy(target + i * to_pitch, (stages ? staged.data() : source) + i * from_pitch, width);
                        return cudaSuccess;
                      }});
  return waits ? cuda_double::finish(stream) : cudaSuccess;
}

inline cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  return cudaMemcpy2DAsync(to, bytes, from, bytes, bytes, 1, kind, stream);
}

inline cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t stream) {
  const std::lock_guard<std::mutex> lock(cuda_double::machine().mutex);
  std::byte* target = cuda_double::alias(to, bytes);
  if (!cuda_double::is_stream(stream) || target == nullptr) return cuda_double::mistake("set memory at the wrong place");
  cuda_double::issue({stream, [=] {
                        std::memset(target, value, bytes);
                        return cudaSuccess;
                      }});
  return cudaSuccess;
}

inline cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  const std::lock_guard<std::mutex> lock(cuda_double::machine().mutex);
  if (!cuda_double::is_stream(stream) || cuda_double::capturing(stream)) return cuda_double::mistake("cannot capture here");
  if (mode != cudaStreamCaptureModeThreadLocal) return cuda_double::mistake("a capture that other threads must not disturb");
  cuda_double::machine().captured[stream];
  return cudaSuccess;
}

inline cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  const std::lock_guard<std::mutex> lock(cuda_double::machine().mutex);
  if (!cuda_double::capturing(stream)) return cuda_double::mistake("no capture to end");
  *graph = new CUgraph_st{std::move(cuda_double::machine().captured[stream])};
  cuda_double::machine().captured.erase(stream);
  ++cuda_double::machine().graphs;
  return cudaSuccess;
}

inline cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  const std::lock_guard<std::mutex> lock(cuda_double::machine().mutex);
  if (!cuda_double::machine().captures) return cudaErrorInvalidValue;
  *exec = new CUgraphExec_st{{graph->work}};
  ++cuda_double::machine().graphs;
  return cudaSuccess;
}

inline cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  const std::lock_guard<std::mutex> lock(cuda_double::machine().mutex);
  ++cuda_double::machine().launched;
  for (cuda_double::Work work : exec->work) {
    work.stream = stream;
    cuda_double::issue(std::move(work));
  }
  return cudaSuccess;
}

inline cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  const std::lock_guard<std::mutex> lock(cuda_double::machine().mutex);
  --cuda_double::machine().graphs;
  delete graph;
  return cudaSuccess;
}

inline cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  const std::lock_guard<std::mutex> lock(cuda_double::machine().mutex);
  --cuda_double::machine().graphs;
  delete exec;
  return cudaSuccess;
}

#endif
