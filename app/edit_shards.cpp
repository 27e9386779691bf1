#include "app/edit_shards.h"

#include <fmt/format.h>

#include "model/executor/executor.h"
#include "runtime/clock.h"
#include "runtime/error.h"

namespace loci::app {
namespace {

void add_outcomes(Executor& executor, const Tokenizer& tokenizer, std::span<Edit> edits) {
  std::vector<EditOutcome> outcomes = score_outcomes(executor, tokenizer, edits);
  for (size_t i = 0; i < edits.size(); ++i) edits[i].outcome = std::move(outcomes[i]);
}

}  // namespace

EditUnit make_edits(Executor& executor, const Tokenizer& tokenizer, const RomeSettings& settings,
                    std::span<const EditRequest> requests, Outcomes outcomes) {
  const auto start = Clock::now();
  EditUnit unit{.edits = compute_edits(executor, tokenizer, settings, requests)};
  unit.seconds = seconds_since(start) / static_cast<double>(requests.size());
  if (outcomes == Outcomes::score) add_outcomes(executor, tokenizer, unit.edits);
  return unit;
}

EditUnit make_edits_in_sequence(Executor& executor, Model& model, const Tokenizer& tokenizer,
                                const RomeSettings& settings, std::span<const EditRequest> requests,
                                Outcomes outcomes) {
  require<ShapeError>(&executor.model() == &model, "the model to edit is not the one that the executor runs");
  EditUnit unit;
  for (const EditRequest& request : requests) {
    EditUnit one = make_edits(executor, tokenizer, settings, std::span(&request, 1), outcomes);
    apply_edit(executor.context(), model, one.edits.at(0));
    unit.edits.push_back(std::move(one.edits[0]));
    unit.seconds += one.seconds / static_cast<double>(requests.size());
  }
  return unit;
}

WriteShard write_edit_unit(EditUnit unit, int64_t first) {
  return [first, unit = std::move(unit)](H5File& shard) {
    for (int64_t i = 0; i < std::ssize(unit.edits); ++i) {
      write_edit(shard, first + i, unit.edits[i]);
      write_attribute(shard, edit_group(first + i), "seconds", unit.seconds);
    }
  };
}

EditUnit read_edit_unit(const H5File& shard, int64_t first, int64_t count) {
  EditUnit unit;
  for (int64_t i = first; i < first + count; ++i) unit.edits.push_back(read_edit(shard, i));
  unit.seconds = read_double_attribute(shard, edit_group(first), "seconds");
  return unit;
}

}  // namespace loci::app
