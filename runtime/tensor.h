#pragma once

#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "runtime/context.h"
#include "runtime/error.h"
#include "runtime/view.h"

namespace loci {

/// Elements of a DeviceArray on their way to the host; DeviceArray::start_to_host().
template <typename T>
class ArrayInFlight {
 public:
  ArrayInFlight(std::unique_ptr<HostCopy> copy, int64_t size) : copy_(std::move(copy)), size_(size) {}
  /// Waits until they are there; they live as long as this object.
  std::span<const T> wait() { return {reinterpret_cast<const T*>(copy_->wait()), static_cast<size_t>(size_)}; }

 private:
  std::unique_ptr<HostCopy> copy_;
  int64_t size_;
};

/// An owned array of `size` elements in device memory, uninitialised unless made from host values.
template <typename T>
class DeviceArray {
 public:
  DeviceArray() = default;
  DeviceArray(Context& context, int64_t size) : context_(&context), size_(size) {
    data_ = static_cast<T*>(context.allocate(sizeof(T) * static_cast<size_t>(size)));
  }
  DeviceArray(Context& context, std::span<const T> values) : DeviceArray(context, std::ssize(values)) {
    context.copy_to_device(data_, values.data(), values.size_bytes());
  }
  ~DeviceArray() { reset(); }
  DeviceArray(DeviceArray&& other) noexcept { swap(other); }
  DeviceArray& operator=(DeviceArray&& other) noexcept {
    if (this != &other) {
      reset();
      swap(other);
    }
    return *this;
  }

  T* data() const { return data_; }
  int64_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  Context* context() const { return context_; }

  std::vector<T> to_host() const {
    std::vector<T> values(static_cast<size_t>(size_));
    if (size_) context_->copy_to_host(values.data(), data_, sizeof(T) * values.size());
    return values;
  }
  /// The same without the wait; the array may go away meanwhile.
  ArrayInFlight<T> start_to_host() const {
    if (!context_) return {std::make_unique<ImmediateCopy>(), 0};
    return {context_->start_copy_to_host(data_, sizeof(T) * static_cast<size_t>(size_)), size_};
  }

 private:
  void reset() {
    if (context_) context_->release(data_, sizeof(T) * static_cast<size_t>(size_));
    context_ = nullptr;
    data_ = nullptr;
    size_ = 0;
  }
  void swap(DeviceArray& other) {
    std::swap(context_, other.context_);
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
  }

  Context* context_ = nullptr;
  T* data_ = nullptr;
  int64_t size_ = 0;
};

/// An owned fp32 matrix [rows, cols] in device memory, uninitialised unless said otherwise. Its rows are contiguous
/// unless padded.
class Tensor {
 public:
  Tensor() = default;
  Tensor(Context& context, int64_t rows, int64_t cols) : Tensor(context, rows, cols, cols) {}

  /// Every row starts at a sector of memory, 32 bytes, whatever `cols` is, so that products store and ops load whole
  /// ones.
  static Tensor padded(Context& context, int64_t rows, int64_t cols) {
    return {context, rows, cols, padded_stride(cols)};
  }
  static int64_t padded_stride(int64_t cols) {
    constexpr int64_t kSector = 32 / sizeof(float);
    return (cols + kSector - 1) / kSector * kSector;
  }
  static Tensor zeros(Context& context, int64_t rows, int64_t cols) {
    Tensor made(context, rows, cols);
    context.fill_zero(made.data(), sizeof(float) * static_cast<size_t>(rows * cols));
    return made;
  }
  /// Copies `values` [rows * cols] from the host.
  static Tensor from_host(Context& context, std::span<const float> values, int64_t rows, int64_t cols) {
    require<ShapeError>(std::ssize(values) == rows * cols, "{} values for a [{}, {}] matrix", values.size(), rows,
                        cols);
    Tensor made(context, rows, cols);
    context.copy_to_device(made.data(), values.data(), values.size_bytes());
    return made;
  }

  float* data() const { return values_.data(); }
  float* row(int64_t r) const { return data() + r * stride_; }
  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  bool empty() const { return values_.empty(); }
  View view() { return {data(), rows_, cols_, stride_}; }
  ConstView view() const { return {data(), rows_, cols_, stride_}; }
  View rows_slice(int64_t first, int64_t count) { return view().rows_slice(first, count); }
  ConstView rows_slice(int64_t first, int64_t count) const { return view().rows_slice(first, count); }
  /// The elements alone, row by row, without the padding.
  std::vector<float> to_host() const;
  /// The same without the wait, of a matrix without padding; it may go away meanwhile.
  ArrayInFlight<float> start_to_host() const {
    require<ShapeError>(stride_ == cols_, "a padded matrix is not copied whole");
    return values_.start_to_host();
  }

 private:
  Tensor(Context& context, int64_t rows, int64_t cols, int64_t stride)
      : values_(context, rows * stride), rows_(rows), cols_(cols), stride_(stride) {}

  DeviceArray<float> values_;
  int64_t rows_ = 0;
  int64_t cols_ = 0;
  int64_t stride_ = 0;
};

/// Copies a view [rows, cols] of device memory to the host.
inline std::vector<float> to_host(Context& context, ConstView view) {
  std::vector<float> values(static_cast<size_t>(view.rows * view.cols));
  context.copy_rows_to_host(values.data(), view.data, sizeof(float) * static_cast<size_t>(view.cols),
                            sizeof(float) * static_cast<size_t>(view.stride), static_cast<size_t>(view.rows));
  return values;
}

inline std::vector<float> Tensor::to_host() const {
  return empty() ? std::vector<float>{} : loci::to_host(*values_.context(), view());
}

}  // namespace loci
