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

/// What a unit of edits leaves.
struct EditUnit {
  std::vector<EditBatch> batches;
  double seconds = 0;  ///< each of its edits took
};

/// Whether edits are scored on their bare prompts once they are made: Edit::outcome.
enum class Outcomes { leave_out, score };

/// Writes each batch into the model as it is. Throws what Method::edit() does, here and below.
EditUnit make_edits(Executor& executor, const Tokenizer& tokenizer, const Method& method,
                    std::span<const PreparedRequest> requests, int64_t batch_size, Outcomes outcomes);
/// Applies each batch to `model`, which `executor` runs, before the next one is made.
EditUnit make_edits_in_sequence(Executor& executor, Model& model, const Tokenizer& tokenizer, Method& method,
                                std::span<const PreparedRequest> requests, int64_t batch_size, Outcomes outcomes);

/// Writes them as `/edits/{first}`, `/edits/{first + 1}`, .. with the attribute `seconds`.
WriteShard write_edit_unit(EditUnit unit, const Architecture& architecture, int64_t first, int64_t batch_size);
/// Reads `count` of them from a shard.
EditUnit read_edit_unit(const H5File& shard, const Architecture& architecture, int64_t first, int64_t count);

}  // namespace loci
