#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "edit/edit_file.h"
#include "runtime/jobs/unit_runner.h"

/// How a comparison of methods is cut into work.
namespace loci {

/// What the units of a stage do.
enum class Work {
  find,             ///< the first step of a TwoStepMethod, for some requests
  write,            ///< a chunk of requests into the original model
  write_and_score,  ///< the same for small chunks, which are scored in lanes
  extend,           ///< the next batches of a sequence
  score,            ///< some records on the model with the edits of their chunk, or of the sequence so far
  measure,          ///< the change of that model, and some windows of the text
};

/// A unit of work: records first .. first + count - 1 of a chunk, or windows of the text.
struct Part {
  int64_t chunk = 0;
  int64_t first = 0;
  int64_t count = 0;

  bool operator==(const Part&) const = default;
};

/// A pass over units that do the same.
struct Stage {
  Work work;
  int64_t row = 0;       ///< of the table; 0 is the unedited model's
  int64_t method = -1;   ///< -1: none
  int64_t edits = 0;     ///< of a chunk; of a sequence in the end
  int64_t batch = 1;     ///< requests that are written together
  int64_t run = -1;      ///< the sequence that it belongs to; -1: chunks, each from the original model
  int64_t found = -1;    ///< the stage that has found values for it
  int64_t written = -1;  ///< the stage that has written the chunks that it scores or measures
  UnitOrder order = UnitOrder::any;
  std::vector<Part> parts = {};
};

/// What a plan has to know of a method.
struct MethodTraits {
  std::string name;
  bool takes_batches = true;
  bool in_two_steps = false;
  int64_t own_batch = 1;  ///< Method::default_batch_size()
};

struct ComparisonShape {
  EditMode mode = EditMode::independent;
  std::vector<int64_t> edits_at;  ///< rising
  std::optional<int64_t> batch;   ///< of methods that take batches; 0: all
  int64_t records = 0;
  int64_t records_per_unit = 16;
  std::vector<Part> text = {};  ///< windows of the text, in parts
  std::string records_file = {};
};

/// Of a row, how many chunks are measured: more add little, and each costs a reading of the text.
inline constexpr int64_t kMeasuredChunks = 10;

/// The row of a method at a point, both by their index.
inline int64_t row_of(const ComparisonShape& shape, int64_t method, int64_t point) {
  return 1 + method * std::ssize(shape.edits_at) + point;
}

/// Throws InputError for numbers of edits that do not rise, or that the records, or the batches of a sequence, do not
/// reach.
void check_points(const ComparisonShape& shape, std::span<const MethodTraits> methods);

/// The stages in their order: the unedited model, then one method after the other. Methods without a value are left
/// out.
std::vector<Stage> plan_comparison(const ComparisonShape& shape, std::span<const std::optional<MethodTraits>> methods);

}  // namespace loci
