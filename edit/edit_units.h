#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "edit/edit_file.h"
#include "edit/method.h"
#include "runtime/jobs/unit_runner.h"

/// Units of work that make edits.
namespace loci {

/// Requests, or records, of a unit: enough to fill the waves of small models on a CPU, and those of any model on a GPU,
/// and few enough for many ranks. Part of the result's bits: the requests of a unit share waves.
inline int64_t requests_per_unit(const Context& context) { return context.on_cpu() ? 16 : 32; }
/// With batches of this size, 0 for one of all `requests`: a batch is never cut.
inline int64_t requests_per_unit(const Context& context, int64_t batch_size, int64_t requests) {
  if (batch_size == 1) return requests_per_unit(context);
  return batch_size == 0 ? std::max<int64_t>(1, requests) : batch_size;
}

/// A pass of a job that makes edits, over some of its requests.
struct EditPass {
  bool finds;     ///< its units do the first step of a TwoStepMethod; else they write batches
  int64_t first;  ///< of its requests among all
  UnitPass units;
};

/// The passes that make edits of so many requests, in the mode's order. Batches of a TwoStepMethod are found first, by
/// all ranks; those of a sequence one batch after the other, since the model changes in between.
std::vector<EditPass> edit_passes(const Context& context, const Method& method, int64_t requests, int64_t batch_size,
                                  EditMode mode);

/// What a unit of edits leaves.
struct EditUnit {
  std::vector<EditBatch> batches;
  double seconds = 0;  ///< each of its edits took
};

/// What units that find have left of the requests of a batch.
struct FoundEdits {
  std::vector<Edit> edits;
  double seconds = 0;  ///< each of them took
};

/// Whether edits are scored on their bare prompts once they are made: Edit::outcome.
enum class Outcomes { leave_out, score };

/// Writes each batch into the model as it is. Where something is `found`, the requests are one batch, and it is
/// theirs. Throws what Method::edit() does, here and below.
EditUnit make_edits(Executor& executor, const Tokenizer& tokenizer, const Method& method,
                    std::span<const PreparedRequest> requests, int64_t batch_size, Outcomes outcomes,
                    FoundEdits found = {});
/// Applies each batch to `model`, which `executor` runs, before the next one is made.
EditUnit make_edits_in_sequence(Executor& executor, Model& model, const Tokenizer& tokenizer, Method& method,
                                std::span<const PreparedRequest> requests, int64_t batch_size, Outcomes outcomes,
                                FoundEdits found = {});
/// The first step of the method for some requests, as a shard for read_found_edits().
WriteShard find_edits(Executor& executor, const TwoStepMethod& method, std::span<const PreparedRequest> requests,
                      int64_t first);

/// Writes them as `/edits/{first}`, `/edits/{first + 1}`, .. with the attribute `seconds`.
WriteShard write_edit_unit(EditUnit unit, const Architecture& architecture, int64_t first, int64_t batch_size);
/// Whether a shard is of find_edits(), which leaves nothing for the output.
bool holds_found_edits(const H5File& shard);
/// Makes of a finished output the shard that find_edits() wrote for these edits.
void copy_found_edits(const H5File& output, int64_t first, int64_t count, H5File& shard);
/// What the units of a pass that finds, the first of them `first_unit` of the store, have left of `count` requests from
/// `first` on, among all.
FoundEdits read_found_edits(const UnitStore& store, const Architecture& architecture, const EditPass& pass,
                            int64_t first_unit, int64_t first, int64_t count);
/// Reads `count` of them from a shard.
EditUnit read_edit_unit(const H5File& shard, const Architecture& architecture, int64_t first, int64_t count);

}  // namespace loci
