#include "edit/moment_totals.h"

#include <utility>

#include "runtime/error.h"

namespace loci {

MomentTotals::MomentTotals(Communicator& ranks, ThreadPool& threads, size_t layers, int64_t width)
    : ranks_(ranks),
      threads_(threads),
      width_(width),
      rows_((width + ranks.size() - 1) / ranks.size()),
      totals_(layers) {}

std::vector<double> MomentTotals::exchange(std::vector<double> own) const {
  require<ShapeError>(own.empty() || static_cast<int64_t>(own.size()) == width_ * width_,
                      "a second moment of {} elements where [{}, {}] is expected", own.size(), width_, width_);
  own.resize(block() * static_cast<size_t>(ranks_.size()));
  if (ranks_.size() == 1) return own;
  std::vector<double> received(own.size());
  ranks_.all_to_all(std::as_bytes(std::span(own)), std::as_writable_bytes(std::span(received)),
                    "the sum of second moments");
  return received;
}

void MomentTotals::add(size_t layer, std::vector<double>& exchanged, int first, int end) {
  std::vector<double>& total = totals_[layer];
  if (total.empty() && ranks_.size() == 1) {
    total = std::exchange(exchanged, {});
    return;
  }
  total.resize(block());
  for (int rank = first; rank < end; ++rank) {
    const auto unit = std::span(exchanged).subspan(block() * static_cast<size_t>(rank), block());
    constexpr int64_t kGrain = 1 << 15;
    threads_.parallel_for(static_cast<int64_t>(total.size()), kGrain, [&](int64_t begin, int64_t end_element) {
      for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end_element); ++i) total[i] += unit[i];
    });
  }
}

std::vector<double> MomentTotals::gather(size_t layer) const {
  std::vector<double> all(block() * static_cast<size_t>(ranks_.size()));
  ranks_.all_gather(std::as_bytes(std::span(totals_[layer])), std::as_writable_bytes(std::span(all)),
                    "the gathering of second moments");
  all.resize(static_cast<size_t>(width_ * width_));
  return all;
}

std::vector<double> MomentTotals::take(size_t layer) {
  std::vector<double> all = ranks_.size() == 1 ? std::move(totals_[layer]) : gather(layer);
  totals_[layer] = {};
  return all;
}

void MomentTotals::restore(size_t layer, std::vector<double> total) {
  total.resize(block() * static_cast<size_t>(ranks_.size()));
  ranks_.broadcast(std::as_writable_bytes(std::span(total)), 0, "the broadcast of a checkpoint");
  const auto first = total.begin() + static_cast<std::ptrdiff_t>(block()) * ranks_.rank();
  totals_[layer].assign(first, first + static_cast<std::ptrdiff_t>(block()));
}

}  // namespace loci
