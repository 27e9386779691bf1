#include "eval/eval_file.h"

#include <gtest/gtest.h>

#include "tests/eval/support.h"
#include "tests/support/paths.h"

namespace loci::test {
namespace {

std::vector<RecordResult> some_records() {
  using enum PromptKind;
  RecordResult first, second, third;
  first = {.case_id = 12,
           .request = {{"subject", "東京"}},
           .update_norm = 1.5,
           .edit_seconds = 2,
           .score_seconds = 3,
           .prompts = {}};
  first.prompts = {make_prompt(rewrite, {3, 1}, {0.5f, 2}), make_prompt(neighborhood, {4, 1}, {4, 1})};
  first.prompts[0].target_tokens[0] = {4, 5};
  first.prompts[0].before[0] = {{-1, -2}, {4, 9}};
  first.prompts[0].after[0] = {{-3, -4}, {8, 5}};
  second.case_id = -1;  // no prompts
  second.request = Json::object();
  third = first;
  third.case_id = 7;
  return {first, second, third};
}

TEST(EvalFile, TablesComeBackAsTheyWere) {
  const TemporaryDir dir;
  const auto records = some_records();
  write_hdf5_atomically(dir.file("a.h5"), [&](H5File& file) { write_records(file, records); });
  const auto back = read_records(H5File::open_read(dir.file("a.h5")));
  ASSERT_EQ(back.size(), records.size());
  for (size_t r = 0; r < records.size(); ++r) {
    EXPECT_EQ(back[r].case_id, records[r].case_id);
    EXPECT_EQ(back[r].request, records[r].request);
    EXPECT_EQ(back[r].update_norm, records[r].update_norm);
    ASSERT_EQ(back[r].prompts.size(), records[r].prompts.size());
    for (size_t p = 0; p < records[r].prompts.size(); ++p) {
      const PromptResult &a = back[r].prompts[p], &b = records[r].prompts[p];
      EXPECT_EQ(a.kind, b.kind);
      EXPECT_EQ(a.text, b.text);
      EXPECT_EQ(a.targets, b.targets);
      EXPECT_EQ(a.target_tokens, b.target_tokens);
      for (size_t t = 0; t < b.targets.size(); ++t) {
        EXPECT_EQ(a.before[t].log_probabilities, b.before[t].log_probabilities);
        EXPECT_EQ(a.before[t].best, b.before[t].best);
        EXPECT_EQ(a.after[t].log_probabilities, b.after[t].log_probabilities);
        EXPECT_EQ(a.after[t].best, b.after[t].best);
      }
    }
  }
}

TEST(EvalFile, AModelScoredAsItIsComesBack) {
  const TemporaryDir dir;
  auto records = some_records();
  for (RecordResult& record : records)
    for (PromptResult& prompt : record.prompts) prompt.after.clear();
  write_hdf5_atomically(dir.file("a.h5"), [&](H5File& file) {
    write_records(file, records);
    write_summary(file, summarize(Dataset::counterfact, std::span(records).first(1)));
  });
  const H5File file = H5File::open_read(dir.file("a.h5"));
  for (const char* absent :
       {"/records/update_norm", "/records/edit_seconds", "/targets/nll_after", "/tokens/log_probability_after",
        "/tokens/best_after", "/summary/after", "/summary/after_interval"})
    EXPECT_FALSE(h5_exists(file, absent)) << absent;
  EXPECT_EQ(read_dataset<int64_t>(file, "/summary/records").values[0], 1);
  const auto back = read_records(file);
  ASSERT_EQ(back.size(), records.size());
  EXPECT_FALSE(scored_after(back));
  EXPECT_EQ(back[0].prompts[0].before[0].best, records[0].prompts[0].before[0].best);
  EXPECT_EQ(back[0].prompts[0].before[0].log_probabilities, records[0].prompts[0].before[0].log_probabilities);
}

/// Files whose tables contradict each other: one column replaced.
void expect_refused(const std::string& path, const std::vector<int64_t>& values) {
  SCOPED_TRACE(path);
  const TemporaryDir dir;
  write_hdf5_atomically(dir.file("a.h5"), [&](H5File& file) {
    H5File whole = H5File::create(dir.file("whole.h5"));
    write_records(whole, some_records());
    for (const std::string& table : group_members(whole, "/")) {
      for (const std::string& column : group_members(whole, "/" + table)) {
        const std::string name = "/" + table + "/" + column;
        if (name != path) copy_object(whole, name, file, name);
      }
    }
    if (!values.empty()) write_dataset(file, path, values, {std::ssize(values)});
  });
  EXPECT_THROW(read_records(H5File::open_read(dir.file("a.h5"))), InputError);
}

TEST(EvalFile, ContradictoryTablesAreRefused) {
  expect_refused("/prompts/record", {0, 0, 2, 3});  // no such record
  expect_refused("/prompts/record", {0, 0, -1, 2});
  expect_refused("/prompts/record", {2, 0, 0, 2});  // out of order
  expect_refused("/prompts/record", {0, 0, 2});     // shorter than its table
  expect_refused("/targets/prompt", {0, 0, 1, 1, 2, 2, 3, 4});
  expect_refused("/tokens/target", {0, 0, 1, 2, 3, 4, 4, 5, 6, 6});  // the last target has no tokens
  expect_refused("/records/request", {1, 2, 3});                     // numbers where texts belong
  expect_refused("/tokens/id", {});                                  // missing
}

TEST(EvalFile, UnknownPromptKindIsRefused) { expect_refused("/prompts/kind", {0, 2, 0, 9}); }

}  // namespace
}  // namespace loci::test
