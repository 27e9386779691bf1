#include "runtime/context.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>

#include "runtime/error.h"
#include "runtime/tensor.h"

namespace loci {
namespace {

TEST(DeviceNames, AreParsedOrRefused) {
  EXPECT_EQ(Device::parse("cpu").name(), "cpu");
  for (const char* text : {"", "CPU", "gpu", "cpu:0", "cuda:", "cuda:x", "cuda:-1", "cud"}) {
    try {
      Device::parse(text);
      ADD_FAILURE() << text;
    } catch (const InputError& error) {
      EXPECT_NE(std::string(error.what()).find(std::string("--device ") + text), std::string::npos) << error.what();
    }
  }
}

TEST(Context, MemoryIsAlignedAndCounted) {
  Context context;
  void* small = context.allocate(1);
  void* large = context.allocate(100000);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(small) % 64, 0u);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(large) % 64, 0u);
  std::memset(large, 1, 100000);
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
  Context context;
  void* first = context.allocate(1000);
  context.release(first, 1000);
  EXPECT_EQ(context.allocate(1001), first);
  context.release(first, 1001);
}

TEST(Context, NoMemoryIsASystemError) {
  Context context;
  EXPECT_THROW(context.allocate(size_t{1} << 60), SystemError);
  void* block = context.allocate(64);
  EXPECT_NE(block, nullptr);
  context.release(block, 64);
  context.reset_peak();
  EXPECT_EQ(context.peak_bytes(), 0);
}
#endif

TEST(Context, TheBudgetIsWhatWasAskedForOrHalfOfWhatIsFree) {
  ContextOptions options;
  options.memory_budget = 12345;
  options.threads = 3;
  Context limited(options);
  EXPECT_EQ(limited.memory_budget(), 12345);
  EXPECT_EQ(limited.threads().size(), 3);
  EXPECT_GT(Context().memory_budget(), 0);
}

TEST(Context, CopiesOfNothingAreFine) {
  Context context;
  context.copy_to_device(nullptr, nullptr, 0);
  context.copy_to_host(nullptr, nullptr, 0);
  context.copy_on_device(nullptr, nullptr, 0);
  context.fill_zero(nullptr, 0);
}

TEST(DeviceArrays, OwnWhatTheyHold) {
  Context context;
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
  Context context;
  const std::vector<float> values{1, 2, 3, 4, 5, 6};
  Tensor tensor = Tensor::from_host(context, values, 2, 3);
  EXPECT_EQ(tensor.to_host(), values);
  EXPECT_EQ(to_host(context, tensor.view().cols_slice(1, 2)), (std::vector<float>{2, 3, 5, 6}));
  EXPECT_EQ(to_host(context, tensor.rows_slice(1, 1)), (std::vector<float>{4, 5, 6}));
  EXPECT_EQ(Tensor::zeros(context, 2, 2).to_host(), std::vector<float>(4, 0));
  EXPECT_THROW(Tensor::from_host(context, values, 2, 2), ShapeError);
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
