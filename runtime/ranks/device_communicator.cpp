#include "runtime/ranks/device_communicator.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <functional>

#include "runtime/error.h"
#include "runtime/ranks/device_communicator_nccl.h"

namespace loci {
namespace {

std::byte* bytes_of(void* data) { return static_cast<std::byte*>(data); }
const std::byte* bytes_of(const void* data) { return static_cast<const std::byte*>(data); }

/// Where a rank computes.
struct Place {
  bool on_gpu;
  bool has_nccl;
  CudaDevice::Identity device;
};

/// Why these ranks cannot use NCCL; empty where they can.
std::string_view obstacle_to_nccl(std::vector<Place> places) {
  if (!std::all_of(places.begin(), places.end(), std::mem_fn(&Place::has_nccl))) return "this build has no NCCL";
  if (!std::all_of(places.begin(), places.end(), std::mem_fn(&Place::on_gpu))) return "some ranks are on the CPU";
  const auto by_device = [](const auto& compare) {
    return [=](const Place& a, const Place& b) { return compare(a.device, b.device); };
  };
  std::sort(places.begin(), places.end(), by_device(std::less<>()));
  const auto shared = std::adjacent_find(places.begin(), places.end(), by_device(std::equal_to<>()));
  return shared == places.end() ? "" : "some ranks share a GPU";
}

}  // namespace

HostStagedDeviceCommunicator::HostStagedDeviceCommunicator(Communicator& ranks, Context& context, size_t staging_bytes)
    : DeviceCommunicator(ranks, context), staging_bytes_(staging_bytes) {}

size_t HostStagedDeviceCommunicator::piece_bytes(size_t blocks) const {
  return std::max<size_t>(1, staging_bytes_ / blocks);
}

std::span<std::byte> HostStagedDeviceCommunicator::staging(size_t bytes) {
  if (staging_.size() < bytes) staging_.resize(bytes);
  return std::span(staging_).first(bytes);
}

void HostStagedDeviceCommunicator::broadcast(void* data, size_t bytes, int root, std::string_view what) {
  if (context().on_cpu()) return ranks().broadcast({bytes_of(data), bytes}, root, what);
  if (ranks().size() == 1) return;
  const size_t piece = piece_bytes(1);
  for (size_t offset = 0; offset < bytes; offset += piece) {
    const std::span<std::byte> staged = staging(std::min(piece, bytes - offset));
    if (ranks().rank() == root) context().copy_to_host(staged.data(), bytes_of(data) + offset, staged.size());
    ranks().broadcast(staged, root, what);
    if (ranks().rank() != root) context().copy_to_device(bytes_of(data) + offset, staged.data(), staged.size());
  }
}

void HostStagedDeviceCommunicator::all_gather(const void* own, void* all, size_t bytes, std::string_view what) {
  const auto count = static_cast<size_t>(ranks().size());
  if (context().on_cpu()) return ranks().all_gather({bytes_of(own), bytes}, {bytes_of(all), bytes * count}, what);
  if (count == 1) return context().copy_on_device(all, own, bytes);
  const size_t piece = piece_bytes(count + 1);
  for (size_t offset = 0; offset < bytes; offset += piece) {
    const size_t length = std::min(piece, bytes - offset);
    const std::span<std::byte> staged = staging(length * (count + 1));
    const std::span<std::byte> sent = staged.first(length), received = staged.subspan(length);
    context().copy_to_host(sent.data(), bytes_of(own) + offset, length);
    ranks().all_gather(sent, received, what);
    for (size_t rank = 0; rank < count; ++rank)
      context().copy_to_device(bytes_of(all) + rank * bytes + offset, received.data() + rank * length, length);
  }
}

void HostStagedDeviceCommunicator::all_to_all(const void* own, void* received, size_t bytes, std::string_view what) {
  const auto count = static_cast<size_t>(ranks().size());
  if (context().on_cpu())
    return ranks().all_to_all({bytes_of(own), bytes * count}, {bytes_of(received), bytes * count}, what);
  if (count == 1) return context().copy_on_device(received, own, bytes);
  const size_t piece = piece_bytes(2 * count);
  for (size_t offset = 0; offset < bytes; offset += piece) {
    const size_t length = std::min(piece, bytes - offset);
    const std::span<std::byte> staged = staging(2 * length * count);
    const std::span<std::byte> sent = staged.first(length * count), arrived = staged.subspan(length * count);
    context().copy_rows_to_host(sent.data(), bytes_of(own) + offset, length, bytes, count);
    ranks().all_to_all(sent, arrived, what);
    for (size_t rank = 0; rank < count; ++rank)
      context().copy_to_device(bytes_of(received) + rank * bytes + offset, arrived.data() + rank * length, length);
  }
}

std::unique_ptr<DeviceCommunicator> make_device_communicator(Communicator& ranks, Context& context) {
  Place own{!context.on_cpu(), nccl::available(), {}};
  if (own.on_gpu) own.device = CudaDevice::identity(context.device().index);
  const std::vector<Place> places = ranks.all_gather_value(own, "the agreement about NCCL");
  const bool wanted = ranks.size() > 1 && std::any_of(places.begin(), places.end(), std::mem_fn(&Place::on_gpu));
  const std::string_view obstacle = obstacle_to_nccl(places);
  if (wanted && obstacle.empty()) return nccl::make_communicator(ranks, context);
  if (wanted && ranks.is_root()) spdlog::info("the ranks exchange data through host memory: {}", obstacle);
  return std::make_unique<HostStagedDeviceCommunicator>(ranks, context);
}

}  // namespace loci
