#include <cblas.h>
#include <lapacke.h>

#include "kernels/cpu.h"

namespace loci::cpu {

int64_t eigenvectors(Context&, std::vector<double>& matrix, int64_t n, std::vector<double>& values) {
  openblas_set_num_threads(1);  // its sums follow the number of threads
  const auto order = static_cast<lapack_int>(n);
  return LAPACKE_dsyevd(LAPACK_ROW_MAJOR, 'V', 'L', order, matrix.data(), order, values.data());
}

}  // namespace loci::cpu
