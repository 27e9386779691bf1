#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "edit/change.h"
#include "edit/common/value_optimizer.h"
#include "edit/outcome.h"
#include "records/edit_requests.h"

namespace loci {

/// Values that a method has recorded of an edit, or keeps after a batch: a data set in an edit file.
struct RecordedValues {
  std::string name;
  std::string long_name;
  std::vector<float> values;
  std::vector<int64_t> shape = {};     ///< empty: a vector
  std::vector<int64_t> integers = {};  ///< instead of `values`
  std::vector<double> doubles = {};    ///< instead of both
};

/// A request that was written into a model, and what its method recorded of that.
struct Edit {
  EditRequest request;
  std::string method;
  int64_t layer = 0;  ///< where its value was inserted
  std::vector<RecordedValues> recorded;
  std::vector<LossRow> loss_curve;
  std::optional<EditOutcome> outcome = {};  ///< where it was scored: score_outcomes()

  /// What was recorded under this name; empty where there is none.
  std::span<const float> values(std::string_view name) const {
    for (const RecordedValues& one : recorded)
      if (one.name == name) return one.values;
    return {};
  }
};

/// Requests that were written together, and what that changed.
struct EditBatch {
  std::vector<Edit> edits;
  std::vector<Change> changes;
  /// One edit whose only change is of rank one on its layer's down projection: files keep it beside the edit.
  bool is_rank_one = false;
  /// What a sequence must know of all batches so far to go on, for Method::take_up(). A shard keeps that of its last
  /// batch, and a finished file that of the last of all.
  std::vector<RecordedValues> state = {};
};

}  // namespace loci
