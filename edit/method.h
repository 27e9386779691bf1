#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "edit/common/prompts.h"
#include "edit/edit.h"
#include "model/executor/executor.h"
#include "runtime/io/json.h"

namespace loci {

class TwoStepMethod;

/// Requests cut into batches of `batch_size`, the last of which may be smaller; 0: one of all.
std::vector<std::span<const PreparedRequest>> cut_into_batches(std::span<const PreparedRequest> requests,
                                                               int64_t batch_size);

/// A way to write facts into a model: one folder each, one line in edit/methods.cpp. docs/adding_a_method.md
class Method {
 public:
  virtual ~Method() = default;

  /// A request, ready to run: its token sequences. Throws InputError "{where}: ..." for one that does not fit.
  virtual PreparedRequest prepare(const EditRequest& request, std::string_view where) const = 0;

  /// Writes requests in batches of `batch_size` (the last may be smaller), each into the executor's model as it is. The
  /// model is not changed. Requests share waves, whose size depends on the requests alone. Throws NumericalError for a
  /// result that is not finite.
  virtual std::vector<EditBatch> edit(Executor& executor, std::span<const PreparedRequest> requests,
                                      int64_t batch_size) const = 0;

  /// This method, where it finds something for each request before it writes a batch; null for others.
  virtual const TwoStepMethod* in_two_steps() const { return nullptr; }
  /// Whether several requests can be written together; else the batch size is 1.
  virtual bool takes_batches() const { return true; }
  /// Of `edit` where none is asked for; 0: all requests in one batch.
  virtual int64_t default_batch_size() const { return 1; }
  /// In a sequence: the executor's model has got the changes of this batch, made now or by an earlier run.
  virtual void take_up(const EditBatch& batch) { static_cast<void>(batch); }
  /// The next batch is the first of another sequence: what take_up() has kept counts no more.
  virtual void start_sequence() {}
  /// Adds to a finished edit file what concerns all edits.
  virtual void describe(H5File& output) const { static_cast<void>(output); }

  /// The settings that decide about results, for a job's configuration.
  virtual Json settings() const = 0;
  /// Texts that prompts are put after, with {} where the prompt stands; empty where the method takes none.
  virtual std::span<const std::string> context_templates() const { return {}; }
  /// Why edits of this method should not build on each other; empty where nothing is known against it.
  virtual std::string_view warning_of_sequences() const { return {}; }
  /// Whether take_up() needs EditBatch::state. Then a finished sequence takes no more requests, since its file has only
  /// the state after the last batch.
  virtual bool has_state() const { return false; }
};

/// A method whose work on a batch is mostly work on its single requests: the z of MEMIT. Ranks share that, and a job
/// keeps it.
class TwoStepMethod : public Method {
 public:
  const TwoStepMethod* in_two_steps() const override { return this; }
  std::vector<EditBatch> edit(Executor& executor, std::span<const PreparedRequest> requests,
                              int64_t batch_size) const override;

  /// What is found for each request in the executor's model as it is: its edit, still to be written. Requests share
  /// waves, whose size depends on the requests alone.
  virtual std::vector<Edit> find(Executor& executor, std::span<const PreparedRequest> requests) const = 0;
  /// Writes the requests as one batch; `found` are their edits, which it completes.
  virtual EditBatch write(Executor& executor, std::span<const PreparedRequest> requests,
                          std::vector<Edit> found) const = 0;
};

}  // namespace loci
