// Compiled for AVX-512 with VNNI; called only where the processor has it.
#include "kernels/products/int8_product_block.hpp"

namespace rexit::core::kernels {
namespace {

struct Vnni {
  template <class Kind>
  static void run(void* work, std::size_t i) {
    int8_task<Kind, 16>(*static_cast<const Int8ProductWork*>(work), i);
  }
};

}  // namespace

extern const Int8ProductTable avx512_int8 = make_int8_table<Vnni>(int8_vector_rows);

}  // namespace rexit::core::kernels
