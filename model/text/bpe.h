#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace loci {

/// One rule of byte-pair encoding: tokens `left` and `right` side by side become `merged`.
struct Merge {
  std::int32_t left = 0;
  std::int32_t right = 0;
  std::int32_t merged = 0;
};

/// The merges by the pair they join; the rank of a merge is its place in the list (earlier merges go first).
class MergeTable {
 public:
  struct Entry {
    std::uint64_t pair = kNoPair;
    std::int32_t rank = kNoRank;
    std::int32_t merged = -1;
  };
  static constexpr std::int32_t kNoRank = INT32_MAX;

  MergeTable() : MergeTable(std::span<const Merge>{}) {}
  /// No pair may occur twice.
  explicit MergeTable(std::span<const Merge> merges);

  /// The merge of two tokens; its rank is kNoRank where there is none.
  Entry find(std::int32_t left, std::int32_t right) const {
    const std::uint64_t wanted = pair_of(left, right);
    for (std::uint64_t slot = hash(wanted);; slot = (slot + 1) & mask_) {
      const Entry& entry = slots_[slot];
      if (entry.pair == wanted || entry.pair == kNoPair) return entry;
    }
  }

 private:
  static constexpr std::uint64_t kNoPair = ~std::uint64_t{0};
  static std::uint64_t pair_of(std::int32_t left, std::int32_t right) {
    return (static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32) | static_cast<std::uint32_t>(right);
  }
  std::uint64_t hash(std::uint64_t pair) const { return (pair * 0x9E3779B97F4A7C15u) >> shift_; }

  std::vector<Entry> slots_;  // open addressing, at most half full
  std::uint64_t mask_ = 0;
  int shift_ = 0;
};

/// Applies merges to one piece: again and again the merge of lowest rank, the leftmost first, until none applies
/// (Sennrich et al. 2016). Keeps its working space between calls; one object per thread.
class MergeScratch {
 public:
  /// Replaces `ids`, the tokens of the single bytes of a piece, by the merged tokens. O(n log n) in their number, which
  /// must be below 2^31.
  void merge(const MergeTable& table, std::vector<std::int32_t>& ids);

 private:
  void merge_short(const MergeTable& table, std::vector<std::int32_t>& ids);
  void merge_long(const MergeTable& table, std::vector<std::int32_t>& ids);
  void push_pair(const MergeTable& table, std::span<const std::int32_t> ids, std::int32_t left);

  std::vector<std::int32_t> ranks_;
  std::vector<std::int32_t> next_, previous_;
  std::vector<std::uint64_t> heap_;  // rank << 32 | place of the left token, the smallest on top
};

}  // namespace loci
