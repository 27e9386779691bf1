#include "edit/moments/moment_totals.h"

#include <utility>

#include "kernels/symmetric_update.h"
#include "runtime/error.h"

namespace loci {
namespace {

constexpr size_t bytes_of(int64_t count) { return sizeof(double) * static_cast<size_t>(count); }

}  // namespace

MomentTotals::MomentTotals(DeviceCommunicator& ranks, Context& context, size_t layers, int64_t width)
    : ranks_(ranks),
      context_(context),
      width_(width),
      rows_((width + ranks.ranks().size() - 1) / ranks.ranks().size()),
      totals_(layers) {}

DeviceArray<double> MomentTotals::exchange(DeviceArray<double> own) const {
  require<ShapeError>(own.empty() || own.size() == width_ * width_,
                      "a second moment of {} elements where [{}, {}] is expected", own.size(), width_, width_);
  if (alone()) return own;
  const int64_t count = block() * ranks_.ranks().size();
  if (own.size() < count) {  // blocks of equal size, though the matrix ends within the last ones
    DeviceArray<double> padded(context_, count);
    context_.copy_on_device(padded.data(), own.data(), bytes_of(own.size()));
    context_.fill_zero(padded.data() + own.size(), bytes_of(count - own.size()));
    own = std::move(padded);
  }
  DeviceArray<double> received(context_, count);
  ranks_.all_to_all(own.data(), received.data(), bytes_of(block()), "the sum of second moments");
  return received;
}

void MomentTotals::add(size_t layer, DeviceArray<double>& exchanged, int first, int end) {
  DeviceArray<double>& total = totals_[layer];
  if (total.empty() && alone()) {
    total = std::exchange(exchanged, {});
    return;
  }
  if (total.empty()) {
    total = DeviceArray<double>(context_, block());
    context_.fill_zero(total.data(), bytes_of(block()));
  }
  for (int rank = first; rank < end; ++rank)
    add_fp64(context_, exchanged.data() + block() * rank, total.data(), block());
}

std::vector<double> MomentTotals::gather(size_t layer) const {
  const DeviceArray<double>& own = totals_[layer];
  std::vector<double> full;
  if (alone()) {
    full = own.to_host();
  } else {
    DeviceArray<double> all(context_, block() * ranks_.ranks().size());
    ranks_.all_gather(own.data(), all.data(), bytes_of(block()), "the gathering of second moments");
    if (!ranks_.ranks().is_root()) return {};
    full.resize(static_cast<size_t>(width_ * width_));
    context_.copy_to_host(full.data(), all.data(), bytes_of(width_ * width_));
  }
  mirror_lower(context_, full.data(), width_);
  return full;
}

std::vector<double> MomentTotals::take(size_t layer) {
  std::vector<double> all = gather(layer);
  totals_[layer] = {};
  return all;
}

void MomentTotals::restore(size_t layer, std::vector<double> total) {
  Communicator& ranks = ranks_.ranks();
  total.resize(static_cast<size_t>(block() * ranks.size()));
  ranks.broadcast(std::as_writable_bytes(std::span(total)), 0, "the broadcast of a checkpoint");
  totals_[layer] = DeviceArray<double>(context_, block());
  context_.copy_to_device(totals_[layer].data(), total.data() + block() * ranks.rank(), bytes_of(block()));
}

}  // namespace loci
