#include "backends/nvidia/row_gather.hpp"

#include <algorithm>

#include "backends/nvidia/gather_rows_ptx.hpp"

namespace rexit::core::cuda {
namespace {

constexpr std::size_t block_threads = 256, max_blocks = 1024;

}  // namespace

RowGather::RowGather(const Device& device) : device_(device) {
  const OnDevice on(device_);
  const Api& driver = api();
  int error = driver.cuModuleLoadData(&module_, gather_rows_ptx);
  if (error == 0) error = driver.cuModuleGetFunction(&kernel_, module_, "rexit_gather_rows");
  if (error == 0) return;
  kernel_ = nullptr;
  log(REXIT_LOG_WARNING, "the NVIDIA driver does not load rexit's kernel (CUDA error " + std::to_string(error) +
                             "): hidden states move in many copies after an exit");
}

RowGather::~RowGather() {
  const OnDevice on(device_);
  if (module_ != nullptr) api().cuModuleUnload(module_);
}

void RowGather::launch(void* to, const void* from, const std::int64_t* rows, std::size_t row_bytes, std::size_t count,
                       const Stream& stream) const {
  auto pieces = static_cast<unsigned>(row_bytes / piece_bytes);
  auto total = static_cast<unsigned>(count * pieces);
  const auto blocks = static_cast<unsigned>(std::min((total + block_threads - 1) / block_threads, max_blocks));
  void* arguments[] = {&to, &from, &rows, &pieces, &total};
  const int error = api().cuLaunchKernel(kernel_, blocks, 1, 1, block_threads, 1, 1, 0, stream.get(), arguments, nullptr);
  if (error != 0) fail(REXIT_BACKEND_FAILED, "moving hidden states: CUDA error ", error);
}

}  // namespace rexit::core::cuda
