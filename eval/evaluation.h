#pragma once

#include <span>
#include <vector>

#include "edit/edit.h"
#include "eval/metrics.h"
#include "model/model.h"

/// Records and their edits put together: what `loci eval` does with one slice of its input.
namespace loci {

/// Scores each record before and after the changes of its own batch; the model is not changed. The batches' edits
/// follow the records; ShapeError otherwise. score_seconds is shared equally.
std::vector<RecordResult> evaluate_own_edits(Executor& executor, const Tokenizer& tokenizer, TeacherForcing forcing,
                                             std::span<const EvalRecord> records, std::span<const EditBatch> batches);

/// Scores each record with the executor's model as it is: `after` of the results is empty.
std::vector<RecordResult> evaluate_model(Executor& executor, const Tokenizer& tokenizer, TeacherForcing forcing,
                                         std::span<const EvalRecord> records);

/// Scores each record with two models: the original one, and one that has many edits in its weights. update_norm is
/// left 0.
std::vector<RecordResult> evaluate_joint_edits(Executor& original, Executor& edited, const Tokenizer& tokenizer,
                                               TeacherForcing forcing, std::span<const EvalRecord> records);

}  // namespace loci
