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

std::vector<EditPass> edit_passes(const Context& context, const Method& method, int64_t requests, int64_t batch_size,
                                  EditMode mode) {
  const bool in_sequence = mode == EditMode::sequential;
  const UnitOrder order = in_sequence ? UnitOrder::one_by_one : UnitOrder::any;
  const int64_t per_unit = requests_per_unit(context, batch_size, requests);
  if (!method.in_two_steps() || batch_size == 1) return {{false, 0, {requests, per_unit, order}}};
  std::vector<EditPass> passes;
  const int64_t step = in_sequence ? per_unit : requests;
  for (int64_t first = 0; first < requests; first += step) {
    const int64_t count = std::min(step, requests - first);
    passes.push_back({true, first, {count, requests_per_unit(context), UnitOrder::any}});
    passes.push_back({false, first, {count, std::min(per_unit, count), order}});
  }
  return passes;
}

EditUnit make_edits(Executor& executor, const Tokenizer& tokenizer, const Method& method,
                    std::span<const PreparedRequest> requests, int64_t batch_size, Outcomes outcomes,
                    FoundEdits found) {
  const auto start = Clock::now();
  EditUnit unit;
  if (found.edits.empty())
    unit.batches = method.edit(executor, requests, batch_size);
  else
    unit.batches.push_back(method.in_two_steps()->write(executor, requests, std::move(found.edits)));
  unit.seconds = found.seconds + seconds_since(start) / static_cast<double>(requests.size());
  if (outcomes == Outcomes::score) add_outcomes(executor, tokenizer, unit.batches);
  return unit;
}

EditUnit make_edits_in_sequence(Executor& executor, Model& model, const Tokenizer& tokenizer, Method& method,
                                std::span<const PreparedRequest> requests, int64_t batch_size, Outcomes outcomes,
                                FoundEdits found) {
  require<ShapeError>(&executor.model() == &model, "the model to edit is not the one that the executor runs");
  EditUnit unit;
  for (const std::span<const PreparedRequest> some : cut_into_batches(requests, batch_size)) {
    EditUnit one = make_edits(executor, tokenizer, method, some, batch_size, outcomes, std::move(found));
    for (EditBatch& batch : one.batches) {
      EditedModel(batch.changes).fold_into(executor.context(), model);
      method.take_up(batch);
      unit.batches.push_back(std::move(batch));
    }
    unit.seconds += one.seconds * static_cast<double>(some.size()) / static_cast<double>(requests.size());
  }
  return unit;
}

namespace {

constexpr const char* kStep = "step";  // attribute of shards that find

}  // namespace

WriteShard find_edits(Executor& executor, const TwoStepMethod& method, std::span<const PreparedRequest> requests,
                      int64_t first) {
  const auto start = Clock::now();
  EditUnit unit;
  unit.batches.push_back({.edits = method.find(executor, requests), .changes = {}});
  unit.seconds = seconds_since(start) / static_cast<double>(requests.size());
  return [write = write_edit_unit(std::move(unit), executor.model().config(), first, 0)](H5File& shard) {
    write(shard);
    write_attribute(shard, "/", kStep, "find");
  };
}

bool holds_found_edits(const H5File& shard) { return has_attribute(shard, "/", kStep); }

void copy_found_edits(const H5File& output, int64_t first, int64_t count, H5File& shard) {
  for (int64_t i = first; i < first + count; ++i) copy_object(output, edit_group(i), shard, edit_group(i));
  write_attribute(shard, "/", kStep, "find");
}

FoundEdits read_found_edits(const UnitStore& store, const Architecture& architecture, const EditPass& pass,
                            int64_t first_unit, int64_t first, int64_t count) {
  FoundEdits found;
  const int64_t end = first + count, per_unit = pass.units.per_unit;
  for (int64_t next = first; next < end;) {
    const int64_t index = (next - pass.first) / per_unit;
    const int64_t some = std::min(end, pass.first + (index + 1) * per_unit) - next;
    EditUnit unit = read_edit_unit(store.open_unit(first_unit + index), architecture, next, some);
    for (EditBatch& batch : unit.batches)
      for (Edit& edit : batch.edits) {
        edit.outcome.reset();  // where the shard was cut from an output
        found.edits.push_back(std::move(edit));
      }
    found.seconds += unit.seconds * static_cast<double>(some) / static_cast<double>(count);
    next += some;
  }
  return found;
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
