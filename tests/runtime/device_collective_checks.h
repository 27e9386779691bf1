#pragma once

#include <algorithm>
#include <cstddef>

#include "runtime/context.h"
#include "runtime/ranks/device_communicator.h"
#include "tests/mpi/collective_checks.h"

/// The body of the tests of every DeviceCommunicator: each rank runs it; an Error tells what is wrong.
namespace loci::test {

/// Bytes in the memory of a context.
class DeviceBytes {
 public:
  DeviceBytes(Context& context, const Bytes& values)
      : context_(context), size_(values.size()), data_(context.allocate(std::max<size_t>(1, size_))) {
    context_.copy_to_device(data_, values.data(), size_);
  }
  ~DeviceBytes() { context_.release(data_, std::max<size_t>(1, size_)); }
  DeviceBytes(const DeviceBytes&) = delete;
  DeviceBytes& operator=(const DeviceBytes&) = delete;

  void* data() { return data_; }
  Bytes to_host() const {
    Bytes values(size_);
    context_.copy_to_host(values.data(), data_, size_);
    return values;
  }

 private:
  Context& context_;
  size_t size_;
  void* data_;
};

inline void check_device_broadcasts(DeviceCommunicator& device, Context& context, size_t bytes) {
  const Communicator& ranks = device.ranks();
  for (int root = 0; root < ranks.size(); ++root) {
    const Bytes expected = blocks_of(1, bytes, [&](int, size_t i) { return sent_byte(root, 0, i); });
    DeviceBytes data(context, ranks.rank() == root ? expected : Bytes(bytes, std::byte{0xEE}));
    device.broadcast(data.data(), bytes, root, "the broadcast of bytes");
    expect_same(data.to_host(), expected, ranks, "broadcast");
  }
}

inline void check_device_all_gather(DeviceCommunicator& device, Context& context, size_t bytes) {
  const Communicator& ranks = device.ranks();
  const Bytes expected = blocks_of(ranks.size(), bytes, [](int from, size_t i) { return sent_byte(from, 0, i); });
  DeviceBytes own(context, blocks_of(1, bytes, [&](int, size_t i) { return sent_byte(ranks.rank(), 0, i); }));
  DeviceBytes all(context, Bytes(expected.size(), std::byte{0xEE}));
  device.all_gather(own.data(), all.data(), bytes, "the all-gather of bytes");
  expect_same(all.to_host(), expected, ranks, "all-gather");
}

inline void check_device_all_to_all(DeviceCommunicator& device, Context& context, size_t bytes) {
  const Communicator& ranks = device.ranks();
  const int rank = ranks.rank();
  const Bytes expected = blocks_of(ranks.size(), bytes, [&](int from, size_t i) { return sent_byte(from, rank, i); });
  DeviceBytes own(context, blocks_of(ranks.size(), bytes, [&](int to, size_t i) { return sent_byte(rank, to, i); }));
  DeviceBytes received(context, Bytes(expected.size(), std::byte{0xEE}));
  device.all_to_all(own.data(), received.data(), bytes, "the exchange of bytes");
  expect_same(received.to_host(), expected, ranks, "all-to-all");
}

inline void check_device_collectives(DeviceCommunicator& device, Context& context) {
  for (const size_t bytes : {size_t{0}, size_t{1}, size_t{7}, size_t{1000}, size_t{40001}}) {
    check_device_broadcasts(device, context, bytes);
    check_device_all_gather(device, context, bytes);
    check_device_all_to_all(device, context, bytes);
  }
}

}  // namespace loci::test
