#include "app/edit_shards.h"

#include <fmt/format.h>

#include <chrono>

#include "model/executor.h"
#include "runtime/error.h"

namespace loci::app {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

std::string edit_group(int64_t index) { return fmt::format("/edits/{}", index); }

}  // namespace

EditUnit make_edits(Executor& executor, const Tokenizer& tokenizer, const RomeSettings& settings,
                    std::span<const EditRequest> requests) {
  const auto start = Clock::now();
  EditUnit unit{.edits = compute_edits(executor, tokenizer, settings, requests)};
  unit.seconds = seconds_since(start) / static_cast<double>(requests.size());
  return unit;
}

EditUnit make_edits_in_sequence(Executor& executor, Model& model, const Tokenizer& tokenizer,
                                const RomeSettings& settings, std::span<const EditRequest> requests) {
  require<ShapeError>(&executor.model() == &model, "the model to edit is not the one that the executor runs");
  const auto start = Clock::now();
  EditUnit unit;
  for (const EditRequest& request : requests) {
    unit.edits.push_back(compute_edits(executor, tokenizer, settings, std::span(&request, 1)).at(0));
    apply_edit(executor.context(), model, unit.edits.back());
  }
  unit.seconds = seconds_since(start) / static_cast<double>(requests.size());
  return unit;
}

WriteShard write_edit_unit(EditUnit unit, int64_t first) {
  return [first, unit = std::move(unit)](H5File& shard) {
    for (int64_t i = 0; i < std::ssize(unit.edits); ++i) {
      write_edit(shard, first + i, unit.edits[static_cast<size_t>(i)]);
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
