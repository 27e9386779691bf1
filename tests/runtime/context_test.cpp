#include "runtime/context.h"

#include <gtest/gtest.h>

#include <numeric>
#include <vector>

#include "runtime/error.h"
#include "runtime/tensor.h"
#include "tests/support/device.h"

namespace loci {
namespace {

using test::device_options;

TEST(DeviceNames, AreParsedOrRefused) {
  EXPECT_EQ(Device::parse("cpu").name(), "cpu");
  if (CudaDevice::count() > 0) {
    EXPECT_EQ(Device::parse("cuda").name(), "cuda:0");
    EXPECT_EQ(Device::parse("cuda:0").name(), "cuda:0");
    EXPECT_THROW(Device::parse("cuda:1000"), InputError);
  } else {
    EXPECT_THROW(Device::parse("cuda"), InputError);
  }
  for (const char* text : {"", "CPU", "gpu", "cpu:0", "cuda:", "cuda:x", "cuda:-1", "cud"}) {
    try {
      Device::parse(text);
      ADD_FAILURE() << text;
    } catch (const InputError& error) {
      EXPECT_NE(std::string(error.what()).find(std::string("device ") + text), std::string::npos) << error.what();
    }
  }
}

TEST(DeviceNames, AGpuCanBeToldFromOthers) {
  const Device device = device_options().device;
  if (device.type != DeviceType::cuda) GTEST_SKIP() << "for GPUs";
  EXPECT_NE(CudaDevice::identity(device.index), CudaDevice::Identity{});
  EXPECT_EQ(CudaDevice::identity(device.index), CudaDevice::identity(device.index));
}

TEST(Context, ACopyToTheHostKeepsWhatWasThereWhenItWasStarted) {
  Context context(device_options());
  std::vector<float> values(5000);
  std::iota(values.begin(), values.end(), 0.0f);
  std::vector<ArrayInFlight<float>> copies;
  {
    const DeviceArray<float> array(context, std::span<const float>(values));
    for (int i = 0; i < 3; ++i) {  // more than one under way
      copies.push_back(array.start_to_host());
      context.fill_zero(array.data(), sizeof(float) * static_cast<size_t>(i + 1));
    }
  }
  for (size_t i = 0; i < copies.size(); ++i) {
    std::vector<float> expected = values;
    std::fill(expected.begin(), expected.begin() + static_cast<std::ptrdiff_t>(i), 0.0f);
    const std::span<const float> found = copies[i].wait();
    EXPECT_EQ(std::vector<float>(found.begin(), found.end()), expected);
  }
  EXPECT_TRUE((DeviceArray<float>(context, 0).start_to_host().wait().empty()));
}

TEST(Context, LongArraysReachTheDeviceWhole) {
  Context context(device_options());
  for (const size_t count :
       {size_t{1} << 18, (size_t{1} << 20) + 3, size_t{5} << 20, (size_t{9} << 20) + 1}) {  // to 36 MiB
    std::vector<float> values(count);
    std::iota(values.begin(), values.end(), 1.0f);
    const DeviceArray<float> first(context, std::span<const float>(values));
    const DeviceArray<float> second(context, std::span<const float>(values));
    values[0] = -1;  // the source may be changed
    const std::vector<float> back = second.to_host();
    EXPECT_EQ(back[0], 1.0f);
    EXPECT_TRUE(std::equal(back.begin() + 1, back.end(), values.begin() + 1));
    EXPECT_EQ(first.to_host(), back);
  }
}

TEST(Context, MemoryIsAlignedAndCounted) {
  Context context(device_options());
  void* small = context.allocate(1);
  void* large = context.allocate(100000);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(small) % 64, 0u);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(large) % 64, 0u);
  const std::vector<char> ones(100000, 1);
  context.copy_to_device(large, ones.data(), ones.size());
  EXPECT_GE(context.peak_bytes(), 100001);
  const int64_t peak = context.peak_bytes();
  context.release(large, 100000);
  EXPECT_EQ(context.peak_bytes(), peak);
  context.reset_peak();
  EXPECT_LT(context.peak_bytes(), peak);
  context.release(small, 1);
  context.reset_peak();
  EXPECT_EQ(context.peak_bytes(), 0);
}

// The sanitizers' allocator neither keeps blocks nor returns where there is no memory.
#ifndef LOCI_SANITIZED
TEST(Context, ReleasedBlocksAreUsedAgain) {
  Context context(device_options());
  void* first = context.allocate(1000);
  context.release(first, 1000);
  EXPECT_EQ(context.allocate(1001), first);
  context.release(first, 1001);
}

TEST(Context, WithoutItsCacheBlocksAreOfTheSizeThatWasAskedFor) {
  setenv("LOCI_MEMORY_CACHE", "off", 1);
  Context context(device_options());
  unsetenv("LOCI_MEMORY_CACHE");
  void* block = context.allocate(100);
  EXPECT_EQ(context.peak_bytes(), 100);
  context.release(block, 100);
  context.reset_peak();
  EXPECT_EQ(context.peak_bytes(), 0);
  EXPECT_THROW(context.allocate(size_t{1} << 60), SystemError);
}

TEST(Context, NoMemoryIsASystemError) {
  Context context(device_options());
  EXPECT_THROW(context.allocate(size_t{1} << 60), SystemError);
  void* block = context.allocate(64);
  EXPECT_NE(block, nullptr);
  context.release(block, 64);
  context.reset_peak();
  EXPECT_EQ(context.peak_bytes(), 0);
}
#endif

TEST(Context, TheBudgetIsWhatWasAskedForOrHalfOfWhatIsFree) {
  ContextOptions options = device_options(3);
  options.memory_budget = 12345;
  Context limited(options);
  EXPECT_EQ(limited.memory_budget(), 12345);
  EXPECT_EQ(limited.threads().size(), 3);
  EXPECT_GT(Context(device_options()).memory_budget(), 0);
}

TEST(Context, CopiesOfNothingAreFine) {
  Context context(device_options());
  context.copy_to_device(nullptr, nullptr, 0);
  context.copy_to_host(nullptr, nullptr, 0);
  context.copy_on_device(nullptr, nullptr, 0);
  context.fill_zero(nullptr, 0);
}

TEST(Context, CopiesRowsAndBlocks) {
  Context context(device_options());
  std::vector<int32_t> values(12);
  std::iota(values.begin(), values.end(), 0);
  const DeviceArray<int32_t> source(context, std::span<const int32_t>(values));
  DeviceArray<int32_t> copy(context, 12), picked(context, 6);
  context.copy_on_device(copy.data(), source.data(), 12 * sizeof(int32_t));
  values.assign(12, -1);  // the source of a copy may change as soon as the call returns
  const std::vector<int32_t> in_order{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}, columns{1, 2, 5, 6, 9, 10};
  EXPECT_EQ(copy.to_host(), in_order);
  // Two columns of three rows of four.
  std::vector<int32_t> got(6);
  context.copy_rows_to_host(got.data(), copy.data() + 1, 2 * sizeof(int32_t), 4 * sizeof(int32_t), 3);
  EXPECT_EQ(got, columns);
  context.copy_rows_on_device(picked.data(), copy.data() + 1, 2 * sizeof(int32_t), 4 * sizeof(int32_t), 3);
  EXPECT_EQ(picked.to_host(), columns);
  context.fill_zero(picked.data() + 1, 4 * sizeof(int32_t));
  context.synchronize();
  EXPECT_EQ(picked.to_host(), (std::vector<int32_t>{1, 0, 0, 0, 0, 10}));
}

TEST(Context, ZeroesWhatSeveralThreadsShare) {
  Context context(device_options(3));
  const size_t count = (size_t{5} << 20) / sizeof(int32_t) + 3;
  std::vector<int32_t> expected(count, 7);
  const DeviceArray<int32_t> values(context, std::span<const int32_t>(expected));
  context.fill_zero(values.data() + 1, (count - 2) * sizeof(int32_t));
  std::fill(expected.begin() + 1, expected.end() - 1, 0);
  EXPECT_EQ(values.to_host(), expected);
}

TEST(Context, NamesItsDevice) {
  Context context(device_options());
  EXPECT_EQ(context.device().name(), context.on_cpu() ? "cpu" : "cuda:0");
  EXPECT_FALSE(context.device_product().empty());
  EXPECT_EQ(context.precision(), device_options().precision);
}

TEST(Context, TheCpuComputesInFp32Alone) {
  for (const Precision precision : {Precision::tf32, Precision::bf16}) {
    ContextOptions options;
    options.precision = precision;
    EXPECT_THROW(Context{options}, InputError);
  }
}

TEST(Precisions, HaveTheirNames) {
  for (const char* name : {"fp32", "tf32", "bf16"}) EXPECT_EQ(precision_name(parse_precision(name)), name);
  for (const char* name : {"", "FP32", "fp16", "tf3"}) EXPECT_THROW(parse_precision(name), InputError);
}

TEST(DeviceArrays, OwnWhatTheyHold) {
  Context context(device_options());
  {
    const std::vector<int32_t> values{1, 2, 3};
    DeviceArray<int32_t> first(context, std::span<const int32_t>(values));
    DeviceArray<int32_t> second = std::move(first);
    EXPECT_EQ(second.to_host(), values);
    EXPECT_TRUE(first.empty());
    first = std::move(second);
    EXPECT_EQ(first.to_host(), values);
    first = DeviceArray<int32_t>(context, 5);
    EXPECT_EQ(first.size(), 5);
  }
  context.reset_peak();
  EXPECT_EQ(context.peak_bytes(), 0);
}

TEST(Tensors, RoundTripAndViews) {
  Context context(device_options());
  const std::vector<float> values{1, 2, 3, 4, 5, 6};
  Tensor tensor = Tensor::from_host(context, values, 2, 3);
  EXPECT_EQ(tensor.to_host(), values);
  EXPECT_EQ(to_host(context, tensor.view().cols_slice(1, 2)), (std::vector<float>{2, 3, 5, 6}));
  EXPECT_EQ(to_host(context, tensor.rows_slice(1, 1)), (std::vector<float>{4, 5, 6}));
  EXPECT_EQ(Tensor::zeros(context, 2, 2).to_host(), std::vector<float>(4, 0));
  EXPECT_THROW(Tensor::from_host(context, values, 2, 2), ShapeError);
}

TEST(Tensors, PaddedRowsStartAtSectorsAndComeBackWithoutPadding) {
  Context context(device_options());
  for (const int64_t cols : {1, 7, 8, 9}) {
    Tensor tensor = Tensor::padded(context, 3, cols);
    EXPECT_EQ(tensor.view().stride, cols <= 8 ? 8 : 16);
    EXPECT_EQ(tensor.row(2) - tensor.data(), 2 * tensor.view().stride);
    std::vector<float> values(static_cast<size_t>(3 * cols));
    std::iota(values.begin(), values.end(), 1.0f);
    for (int64_t r = 0; r < 3; ++r)
      context.copy_to_device(tensor.row(r), values.data() + r * cols, sizeof(float) * static_cast<size_t>(cols));
    EXPECT_EQ(tensor.to_host(), values);
  }
  EXPECT_TRUE(Tensor::padded(context, 0, 5).to_host().empty());
}

TEST(Views, KnowTheirShape) {
  float data[12] = {};
  View view(data, 2, 3, 5);
  EXPECT_FALSE(view.contiguous());
  EXPECT_EQ(view.row(1), data + 5);
  EXPECT_EQ(view.rows_slice(1, 1).data, data + 5);
  EXPECT_TRUE(view.rows_slice(0, 1).contiguous());
  EXPECT_TRUE(View().empty());
  EXPECT_TRUE(View(data, 0, 3).empty());
  const ConstView constant = view;
  EXPECT_EQ(constant.stride, 5);
}

}  // namespace
}  // namespace loci
