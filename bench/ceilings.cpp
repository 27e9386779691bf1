#include "bench/ceilings.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

#include "bench/timing.h"
#include "kernels/gemm.h"
#include "runtime/random.h"
#include "runtime/tensor.h"
#ifdef LOCI_BENCH_VENDOR
#include "kernels/cuda_vendor.h"
#endif

namespace loci::bench {
namespace {

constexpr Effort kEffort{.batch_seconds = 20e-3, .total_seconds = 1};

std::vector<float> random_values(int64_t count) {
  std::vector<float> values(static_cast<size_t>(count));
  Random random(7);
  for (float& value : values) value = static_cast<float>(2 * random.uniform() - 1);
  return values;
}

#ifdef LOCI_BENCH_VENDOR
/// The better of the two ways in which the executor's products lay out their second operand.
double vendor_flops(Context& context, int64_t n, const std::vector<float>& values) {
  const Tensor whole = Tensor::from_host(context, values, n, n);
  std::vector<uint16_t> upper(values.size());  // bf16 is the upper half of fp32
  for (size_t i = 0; i < upper.size(); ++i) upper[i] = static_cast<uint16_t>(std::bit_cast<uint32_t>(values[i]) >> 16);
  const DeviceArray<uint16_t> half(context, std::span<const uint16_t>(upper));
  Tensor result(context, n, n);
  const void* operand = context.precision() == Precision::bf16 ? static_cast<const void*>(half.data()) : whole.data();
  double seconds = std::numeric_limits<double>::infinity();
  for (const Transpose transpose_b : {Transpose::no, Transpose::yes}) {
    cuda::vendor::Product product{
        .m = n, .n = n, .k = n, .a = operand, .lda = n, .b = operand, .ldb = n, .c = result.data(), .ldc = n};
    product.transpose_b = transpose_b;
    seconds = std::min(seconds, sample(context, kEffort, [&] { cuda::vendor::multiply(context, product); }).median());
  }
  return gemm_flop(static_cast<double>(n), static_cast<double>(n), static_cast<double>(n)) / seconds;
}
#endif

}  // namespace

double square_product_flops(Context& context, int64_t n) {
  const std::vector<float> values = random_values(n * n);
#ifdef LOCI_BENCH_VENDOR
  if (!context.on_cpu()) return vendor_flops(context, n, values);
#endif
  const Tensor a = Tensor::from_host(context, values, n, n);
  Tensor c(context, n, n);
  const auto multiply = [&] { gemm(context, Transpose::no, a.view(), Transpose::no, a.view(), c.view()); };
  const double cube = static_cast<double>(n) * static_cast<double>(n) * static_cast<double>(n);
  return 2 * cube / sample(context, kEffort, multiply).quantile(0);
}

double copied_bytes(Context& context, int64_t bytes) {
  const DeviceArray<char> from(context, bytes), to(context, bytes);
  const std::vector<float> values = random_values(std::min<int64_t>(bytes, 1 << 20) / 4);
  for (int64_t done = 0, part = 0; done < bytes; done += part) {
    part = std::min(bytes - done, static_cast<int64_t>(4 * values.size()));
    context.copy_to_device(from.data() + done, values.data(), static_cast<size_t>(part));
  }
  const auto copy = [&] {
    if (!context.on_cpu()) return context.copy_on_device(to.data(), from.data(), static_cast<size_t>(bytes));
    constexpr int64_t kPart = int64_t{1} << 16;
    context.threads().parallel_for((bytes + kPart - 1) / kPart, 1, [&](int64_t begin, int64_t end) {
      const int64_t first = begin * kPart, last = std::min(bytes, end * kPart);
      std::memcpy(to.data() + first, from.data() + first, static_cast<size_t>(last - first));
    });
  };
  return 2 * static_cast<double>(bytes) / sample(context, kEffort, copy).quantile(0);
}

}  // namespace loci::bench
