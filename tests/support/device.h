#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <initializer_list>
#include <string>
#include <vector>

#include "runtime/context.h"
#include "runtime/cuda_device.h"
#include "tests/support/compare.h"

/// Where the tests run: the same bodies on the CPU, on the emulated device and on a GPU. $LOCI_TEST_DEVICE names the
/// device (cpu unless set; cuda, cuda:1), $LOCI_TEST_PRECISION the arithmetic of products (fp32 unless set).
namespace loci::test {

inline std::string test_setting(const char* name, const char* otherwise) {
  const char* const value = std::getenv(name);
  return value ? value : otherwise;
}

inline ContextOptions device_options(int threads = 0) {
  ContextOptions options;
  options.device = Device::parse(test_setting("LOCI_TEST_DEVICE", "cpu"));
  options.precision = parse_precision(test_setting("LOCI_TEST_PRECISION", "fp32"));
  options.threads = threads;
  return options;
}

/// `on_cpu` where the tests run there, else the first of them: elsewhere nothing depends on the number of CPU threads.
inline std::vector<int> thread_counts(std::initializer_list<int> on_cpu) {
  if (device_options().device.type == DeviceType::cpu) return on_cpu;
  return {*on_cpu.begin()};
}

/// True on the emulated device, which is too slow for the longest tests.
inline bool on_emulated_device() {
  return device_options().device.type == DeviceType::cuda && CudaDevice(0).product() == "host emulation";
}

/// False in precisions that round the inputs of products. For tests whose claim is fp32's alone:
/// `if (!products_are_fp32()) GTEST_SKIP() << kFp32Only;`
inline bool products_are_fp32() { return device_options().precision == Precision::fp32; }
inline constexpr const char* kFp32Only = "a claim of fp32 alone";

/// The largest relative error by which one input of a product is rounded; tensor cores cut fp32 off to TF32. In fp32,
/// which leaves inputs as they are, that of the product.
inline double product_eps(Precision precision) {
  return precision == Precision::tf32 ? 0x1p-10 : precision == Precision::bf16 ? 0x1p-8 : kEps;
}

/// The largest relative error of a product of two rounded inputs; none in fp32. A test adds it, times the sum of the
/// products' magnitudes, to what it allows in fp32.
inline double product_error(Precision precision) {
  const double eps = product_eps(precision);
  return precision == Precision::fp32 ? 0 : 2 * eps + eps * eps;
}

/// Skips all tests where the device asked for is absent. GoogleTest then prints the reason only, so it carries the mark
/// by which ctest tells a skipped test.
class DeviceEnvironment : public ::testing::Environment {
 public:
  void SetUp() override {
    if (test_setting("LOCI_TEST_DEVICE", "cpu").starts_with("cuda") && CudaDevice::count() == 0)
      GTEST_SKIP() << "[  SKIPPED ] " << CudaDevice::why_none();
  }
};

/// GoogleTest owns the environment.
inline ::testing::Environment* const device_environment = ::testing::AddGlobalTestEnvironment(new DeviceEnvironment);

}  // namespace loci::test
