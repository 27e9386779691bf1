#include <utility>

#include "kernels/cuda.h"
#include "kernels/cuda_vendor.h"
#include "runtime/tensor.h"

namespace loci::cuda {

int64_t eigenvectors(Context& context, std::vector<double>& matrix, int64_t n, std::vector<double>& values) {
  const DeviceArray<double> on_device(context, std::span<const double>(matrix)), device_values(context, n);
  const int64_t failed = vendor::eigen_symmetric(context, on_device.data(), n, device_values.data());
  if (failed != 0) return failed;
  values = device_values.to_host();
  matrix = on_device.to_host();
  // The library's columns are rows here.
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < i; ++j) std::swap(matrix[i * n + j], matrix[j * n + i]);
  return 0;
}

}  // namespace loci::cuda
