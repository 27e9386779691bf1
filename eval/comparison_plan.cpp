#include "eval/comparison_plan.h"

#include <algorithm>

#include "runtime/error.h"
#include "runtime/wording.h"

namespace loci {
namespace {

/// The batches of a sequence over all records.
int64_t batch_of_sequence(const ComparisonShape& shape, const MethodTraits& method) {
  if (!method.takes_batches) return 1;
  const int64_t batch = shape.batch.value_or(method.own_batch);
  return batch == 0 ? std::max<int64_t>(1, shape.records) : batch;
}

/// The batches within a chunk of n requests.
int64_t batch_of_chunk(const ComparisonShape& shape, const MethodTraits& method, int64_t n) {
  if (!method.takes_batches) return 1;
  const int64_t batch = shape.batch.value_or(0);
  return batch == 0 ? n : std::min(batch, n);
}

/// Records first .. end - 1 in parts of at most `size`.
void cut(std::vector<Part>& parts, int64_t chunk, int64_t first, int64_t end, int64_t size) {
  for (; first < end; first += size) parts.push_back({chunk, first, std::min(size, end - first)});
}

class Planner {
 public:
  explicit Planner(const ComparisonShape& shape) : shape_(shape) {}

  void add_unedited() {
    const int64_t scored = is_sequential() ? shape_.edits_at.back() : shape_.records;
    add_scores({.work = Work::score, .edits = scored}, {{0, 0, scored}});
    if (!shape_.text.empty()) add_measures({.work = Work::measure}, 1);
  }

  void add_method(int64_t index, const MethodTraits& method) {
    if (is_sequential())
      add_sequence(index, method, 0, shape_.edits_at, batch_of_sequence(shape_, method));
    else
      add_chunks(index, method);
  }

  std::vector<Stage> take() { return std::move(stages_); }

 private:
  bool is_sequential() const { return shape_.mode == EditMode::sequential; }

  int64_t add(Stage stage) {
    stages_.push_back(std::move(stage));
    return std::ssize(stages_) - 1;
  }

  std::vector<Part> chunks_of(int64_t n) const {
    std::vector<Part> chunks;
    for (int64_t first = 0; first < shape_.records; first += n)
      chunks.push_back({first / n, first, std::min(n, shape_.records - first)});
    return chunks;
  }

  void add_scores(Stage stage, const std::vector<Part>& chunks) {
    for (const Part& chunk : chunks)
      cut(stage.parts, chunk.chunk, chunk.first, chunk.first + chunk.count, shape_.records_per_unit);
    add(std::move(stage));
  }

  void add_measures(Stage stage, int64_t chunks) {
    for (int64_t chunk = 0; chunk < std::min(chunks, kMeasuredChunks); ++chunk) {
      if (shape_.text.empty()) stage.parts.push_back({chunk, 0, 0});
      for (const Part& text : shape_.text) stage.parts.push_back({chunk, text.first, text.count});
    }
    add(std::move(stage));
  }

  /// A stage that finds values for requests first .. end - 1.
  int64_t add_find(Stage stage, int64_t first, int64_t end) {
    cut(stage.parts, 0, first, end, shape_.records_per_unit);
    return add(std::move(stage));
  }

  // --- Chunks, each from the original model ---

  void add_chunks(int64_t index, const MethodTraits& method) {
    const auto is_one_batch = [&](int64_t n) { return batch_of_chunk(shape_, method, n) == n; };
    // What is found from the original model is the same for all sizes of chunks.
    const bool shares = method.in_two_steps && std::ranges::any_of(shape_.edits_at, is_one_batch);
    int64_t found = -1;
    if (shares)
      found = add_find({.work = Work::find, .row = row_of(shape_, index, 0), .method = index}, 0, shape_.records);
    for (int64_t point = 0; point < std::ssize(shape_.edits_at); ++point) {
      const int64_t n = shape_.edits_at[point];
      Stage stage{.work = Work::write,
                  .row = row_of(shape_, index, point),
                  .method = index,
                  .edits = n,
                  .batch = batch_of_chunk(shape_, method, n)};
      if (is_one_batch(n)) {
        stage.found = found;
        add_batches_of_chunks(std::move(stage));
      } else if (n < shape_.records) {
        stage.parts = chunks_of(n);
        add_written(std::move(stage));
      } else {
        add_sequence(index, method, point, {n}, stage.batch);
      }
    }
  }

  /// Each chunk is one batch.
  void add_batches_of_chunks(Stage stage) {
    const std::vector<Part> chunks = chunks_of(stage.edits);
    if (stage.edits > shape_.records_per_unit) {
      stage.parts = chunks;
      return add_written(std::move(stage));
    }
    stage.work = Work::write_and_score;
    if (stage.edits == 1)
      cut(stage.parts, 0, 0, shape_.records, shape_.records_per_unit);
    else
      stage.parts = chunks;
    Stage measures{.work = Work::measure, .row = stage.row, .method = stage.method, .edits = stage.edits};
    measures.written = add(std::move(stage));
    add_measures(std::move(measures), std::ssize(chunks));
  }

  /// The stage that writes chunks, and those that look at them.
  void add_written(Stage stage) {
    const std::vector<Part> chunks = stage.parts;
    Stage scores{.work = Work::score, .row = stage.row, .method = stage.method, .edits = stage.edits};
    scores.written = add(std::move(stage));
    Stage measures = scores;
    measures.work = Work::measure;
    add_scores(std::move(scores), chunks);
    add_measures(std::move(measures), std::ssize(chunks));
  }

  // --- Sequences ---

  /// One sequence that is looked at after so many edits each, the first of which is the row's of `point`.
  void add_sequence(int64_t index, const MethodTraits& method, int64_t point, const std::vector<int64_t>& ends,
                    int64_t batch) {
    const int64_t run = runs_++;
    int64_t first = 0;
    for (const int64_t end : ends) {
      const Stage of_row{.work = Work::extend,
                         .row = row_of(shape_, index, point++),
                         .method = index,
                         .edits = ends.back(),
                         .batch = batch,
                         .run = run};
      add_extensions(of_row, method.in_two_steps && batch > 1, first, end);
      Stage scores = of_row, measures = of_row;
      scores.work = Work::score;
      measures.work = Work::measure;
      add_scores(std::move(scores), {{0, 0, end}});
      add_measures(std::move(measures), 1);
      first = end;
    }
  }

  /// Batches of a sequence depend on each other; what is found for the requests of one does not.
  void add_extensions(const Stage& of_row, bool finds, int64_t first, int64_t end) {
    Stage extend = of_row;
    extend.order = UnitOrder::one_by_one;
    if (!finds) {
      cut(extend.parts, 0, first, end, of_row.batch == 1 ? shape_.records_per_unit : of_row.batch);
      add(std::move(extend));
      return;
    }
    for (; first < end; first += of_row.batch) {
      const int64_t last = std::min(end, first + of_row.batch);
      Stage find = of_row;
      find.work = Work::find;
      extend.found = add_find(std::move(find), first, last);
      extend.parts = {{0, first, last - first}};
      add(extend);
    }
  }

  const ComparisonShape& shape_;
  std::vector<Stage> stages_;
  int64_t runs_ = 0;
};

}  // namespace

void check_points(const ComparisonShape& shape, std::span<const MethodTraits> methods) {
  const std::string name = option("edits-at");
  require<InputError>(!shape.edits_at.empty(), "{} is missing: after how many edits methods are compared", name);
  int64_t before = 0;
  for (const int64_t n : shape.edits_at) {
    require<InputError>(n > before, "{}: {} follows {}; numbers of edits must be 1 or more, and rise", name, n, before);
    require<InputError>(n <= shape.records, "{} {}: {} has {} that can be edited; give at most as many", name, n,
                        shape.records_file, count(shape.records, "record"));
    before = n;
  }
  if (shape.mode != EditMode::sequential) return;
  for (const MethodTraits& method : methods) {
    const int64_t batch = batch_of_sequence(shape, method);
    for (const int64_t n : shape.edits_at)
      require<InputError>(n % batch == 0 || n == shape.records,
                          "{} {}: {} writes batches of {}, which do not end there; give a multiple, or another {}",
                          name, n, method.name, batch, option("batch"));
  }
}

std::vector<Stage> plan_comparison(const ComparisonShape& shape, std::span<const std::optional<MethodTraits>> methods) {
  Planner planner(shape);
  planner.add_unedited();
  for (size_t m = 0; m < methods.size(); ++m)
    if (methods[m]) planner.add_method(static_cast<int64_t>(m), *methods[m]);
  return planner.take();
}

}  // namespace loci
