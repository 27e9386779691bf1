#include "model/text/bpe.h"

#include <algorithm>
#include <bit>
#include <functional>

namespace loci {
namespace {

/// Up to this many tokens, looking at every pair again after each merge beats keeping a heap.
constexpr std::size_t kShortPiece = 32;

constexpr std::int32_t kGone = -2;  // a token that was merged into its left neighbour
constexpr std::int32_t kNone = -1;

}  // namespace

MergeTable::MergeTable(std::span<const Merge> merges) {
  const std::size_t capacity = std::bit_ceil(std::max<std::size_t>(merges.size() * 2, 2));
  slots_.resize(capacity);
  mask_ = capacity - 1;
  shift_ = 64 - std::countr_zero(capacity);
  for (std::size_t rank = 0; rank < merges.size(); ++rank) {
    const std::uint64_t pair = pair_of(merges[rank].left, merges[rank].right);
    std::uint64_t slot = hash(pair);
    while (slots_[slot].pair != kNoPair) slot = (slot + 1) & mask_;
    slots_[slot] = {pair, static_cast<std::int32_t>(rank), merges[rank].merged};
  }
}

void MergeScratch::merge(const MergeTable& table, std::vector<std::int32_t>& ids) {
  if (ids.size() < 2) return;
  if (ids.size() <= kShortPiece) {
    merge_short(table, ids);
  } else {
    merge_long(table, ids);
  }
}

void MergeScratch::merge_short(const MergeTable& table, std::vector<std::int32_t>& ids) {
  std::size_t pairs = ids.size() - 1;
  ranks_.resize(kShortPiece);
  for (std::size_t i = 0; i < pairs; ++i) ranks_[i] = table.find(ids[i], ids[i + 1]).rank;
  while (pairs > 0) {
    std::size_t best = 0;
    for (std::size_t i = 1; i < pairs; ++i) best = ranks_[i] < ranks_[best] ? i : best;
    if (ranks_[best] == MergeTable::kNoRank) break;
    ids[best] = table.find(ids[best], ids[best + 1]).merged;
    for (std::size_t i = best + 1; i < pairs; ++i) ids[i] = ids[i + 1];
    for (std::size_t i = best; i + 1 < pairs; ++i) ranks_[i] = ranks_[i + 1];
    --pairs;
    if (best > 0) ranks_[best - 1] = table.find(ids[best - 1], ids[best]).rank;
    if (best < pairs) ranks_[best] = table.find(ids[best], ids[best + 1]).rank;
  }
  ids.resize(pairs + 1);
}

void MergeScratch::push_pair(const MergeTable& table, std::span<const std::int32_t> ids, std::int32_t left) {
  if (left == kNone || next_[left] == kNone) return;
  const MergeTable::Entry entry = table.find(ids[left], ids[next_[left]]);
  if (entry.rank == MergeTable::kNoRank) return;
  heap_.push_back((static_cast<std::uint64_t>(entry.rank) << 32) | static_cast<std::uint32_t>(left));
  std::push_heap(heap_.begin(), heap_.end(), std::greater<>());
}

void MergeScratch::merge_long(const MergeTable& table, std::vector<std::int32_t>& ids) {
  const auto count = static_cast<std::int32_t>(ids.size());
  next_.resize(ids.size());
  previous_.resize(ids.size());
  heap_.clear();
  for (std::int32_t i = 0; i < count; ++i) {
    previous_[i] = i == 0 ? kNone : i - 1;
    next_[i] = i + 1 == count ? kNone : i + 1;
  }
  for (std::int32_t i = 0; i < count; ++i) push_pair(table, ids, i);
  while (!heap_.empty()) {
    const std::uint64_t top = heap_.front();
    std::pop_heap(heap_.begin(), heap_.end(), std::greater<>());
    heap_.pop_back();
    const auto left = static_cast<std::int32_t>(top & 0xFFFFFFFFu);
    // Either token may have been merged since the pair was pushed: the pair that stands there now must have this rank.
    if (ids[left] == kGone || next_[left] == kNone) continue;
    const std::int32_t right = next_[left];
    const MergeTable::Entry entry = table.find(ids[left], ids[right]);
    if (entry.rank != static_cast<std::int32_t>(top >> 32)) continue;
    ids[left] = entry.merged;
    ids[right] = kGone;
    next_[left] = next_[right];
    if (next_[left] != kNone) previous_[next_[left]] = left;
    push_pair(table, ids, previous_[left]);
    push_pair(table, ids, left);
  }
  std::erase(ids, kGone);
}

}  // namespace loci
