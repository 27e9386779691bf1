#include "edit/edit_units.h"

#include <fmt/format.h>

#include <iterator>

#include "runtime/clock.h"
#include "runtime/error.h"

namespace loci {
namespace {

void add_outcomes(Executor& executor, const Tokenizer& tokenizer, std::span<EditBatch> batches) {
  std::vector<EditOutcome> outcomes = score_outcomes(executor, tokenizer, batches);
  auto next = std::make_move_iterator(outcomes.begin());
  for (EditBatch& batch : batches)
    for (Edit& edit : batch.edits) edit.outcome = *next++;
}

}  // namespace

EditUnit make_edits(Executor& executor, const Tokenizer& tokenizer, const Method& method,
                    std::span<const PreparedRequest> requests, int64_t batch_size, Outcomes outcomes) {
  const auto start = Clock::now();
  EditUnit unit{.batches = method.edit(executor, requests, batch_size)};
  unit.seconds = seconds_since(start) / static_cast<double>(requests.size());
  if (outcomes == Outcomes::score) add_outcomes(executor, tokenizer, unit.batches);
  return unit;
}

EditUnit make_edits_in_sequence(Executor& executor, Model& model, const Tokenizer& tokenizer, Method& method,
                                std::span<const PreparedRequest> requests, int64_t batch_size, Outcomes outcomes) {
  require<ShapeError>(&executor.model() == &model, "the model to edit is not the one that the executor runs");
  EditUnit unit;
  const size_t size = batch_size > 0 ? static_cast<size_t>(batch_size) : requests.size();
  for (size_t first = 0; first < requests.size(); first += size) {
    const auto some = requests.subspan(first, std::min(size, requests.size() - first));
    EditUnit one = make_edits(executor, tokenizer, method, some, batch_size, outcomes);
    for (EditBatch& batch : one.batches) {
      EditedModel(batch.changes).fold_into(executor.context(), model);
      method.take_up(batch);
      unit.batches.push_back(std::move(batch));
    }
    unit.seconds += one.seconds * static_cast<double>(some.size()) / static_cast<double>(requests.size());
  }
  return unit;
}

WriteShard write_edit_unit(EditUnit unit, const Architecture& architecture, int64_t first, int64_t batch_size) {
  const int64_t first_batch = batch_size > 0 ? first / batch_size : 0;
  return [first, first_batch, architecture, unit = std::move(unit)](H5File& shard) {
    write_batches(shard, architecture, unit.batches, first, first_batch);
    for (const std::string& name : group_members(shard, "/edits"))
      write_attribute(shard, "/edits/" + name, "seconds", unit.seconds);
  };
}

EditUnit read_edit_unit(const H5File& shard, const Architecture& architecture, int64_t first, int64_t count) {
  return {read_batches(shard, architecture, first, count), read_double_attribute(shard, edit_group(first), "seconds")};
}

}  // namespace loci
