// Copies rows to one block, by their numbers: the candidates that have not stopped at an exit. gather_rows_ptx.hpp is made from this file;
// the test double runs it on the host.

struct alignas(16) Piece {
  unsigned int words[4];
};

// `to`: rows of `pieces` each, `count` pieces in all; must not overlap `from`. `rows`: their numbers in `from`. For any grid.
extern "C" __global__ void rexit_gather_rows(Piece* to, const Piece* from, const long long* rows, unsigned int pieces,
                                             unsigned int count) {
  for (unsigned int i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x)
    to[i] = from[static_cast<unsigned long long>(rows[i / pieces]) * pieces + i % pieces];
}
