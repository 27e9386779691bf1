// Traces come back from a file as they went in; files that contradict themselves are refused.
#include "trace/results.h"

#include <gtest/gtest.h>

#include "runtime/error.h"
#include "tests/support/compare.h"
#include "tests/support/errors.h"
#include "tests/support/paths.h"

namespace loci::test {
namespace {

StoredTrace example(int64_t id, int64_t record) {
  StoredTrace stored;
  stored.known_id = id;
  stored.record = record;
  stored.subject = "Škoda";
  stored.attribute = "Prague";
  stored.prompt = "Škoda is";
  stored.relation_id = "P1";
  stored.input_ids = {5, 6, 7};
  stored.input_tokens = {"\xEF\xBF\xBD", "koda", " is"};
  stored.subject_range = {0, 2};
  stored.answer = " Prague";
  stored.window = 4;
  stored.trace.answer = 9;
  stored.trace.correct = true;
  stored.trace.high_score = 0.75f;
  stored.trace.low_score = 0.125;
  stored.trace.of(TraceKind::state) = {1, 2, 3, 4, 5, 6};
  stored.trace.of(TraceKind::attn) = {6, 5, 4, 3, 2, 1};
  stored.trace.severed = SeveredTrace{{0.5f, 0.25f}, {}, {0.375f, 0.125f}};
  return stored;
}

class Results : public ::testing::Test {
 protected:
  std::filesystem::path path() const { return folder_.path() / "trace.h5"; }
  TemporaryDir folder_;
};

TEST_F(Results, RoundTripInTheOrderOfTheFactFile) {
  StoredTrace wrong = example(3, 0);
  wrong.trace = {};
  wrong.trace.answer = 4;
  {
    H5File file = H5File::create(path());
    write_trace(file, example(12, 1));
    write_trace(file, wrong);
  }
  const auto traces = read_traces(H5File::open_read(path()));
  ASSERT_EQ(traces.size(), 2u);
  EXPECT_EQ(traces[0].known_id, 3);
  EXPECT_FALSE(traces[0].trace.correct);
  const StoredTrace& read = traces[1];
  const StoredTrace expected = example(12, 1);
  EXPECT_EQ(read.known_id, 12);
  EXPECT_EQ(read.subject, expected.subject);
  EXPECT_EQ(read.attribute, expected.attribute);
  EXPECT_EQ(read.answer, expected.answer);
  EXPECT_EQ(read.input_ids, expected.input_ids);
  EXPECT_EQ(read.input_tokens, expected.input_tokens);
  EXPECT_EQ(read.subject_range, expected.subject_range);
  EXPECT_EQ(read.window, 4);
  EXPECT_EQ(read.trace.low_score, 0.125);
  EXPECT_EQ(read.trace.high_score, 0.75f);
  for (const TraceKind kind : kTraceKinds) EXPECT_TRUE(identical(read.trace.of(kind), expected.trace.of(kind)));
  ASSERT_TRUE(read.trace.severed);
  EXPECT_TRUE(identical(read.trace.severed->no_attn, expected.trace.severed->no_attn));
  EXPECT_TRUE(read.trace.severed->no_mlp.empty());
}

TEST_F(Results, AveragesAreOverCorrectFacts) {
  StoredTrace wrong = example(1, 1);
  wrong.trace = {};
  StoredTrace other = example(2, 2);
  for (float& score : other.trace.of(TraceKind::state)) score += 2;
  const std::vector<StoredTrace> traces = {example(0, 0), wrong, other};
  const Averages averages = average_kind(traces, TraceKind::state, 2, RowRule::each_token_once);
  EXPECT_EQ(averages.cases, 2);
  EXPECT_EQ(averages.row(TokenRow::first_subject).mean, (std::vector<double>{2, 3}));
  EXPECT_EQ(averages.row(TokenRow::last).mean, (std::vector<double>{6, 7}));
  const SeveredAverages severed = average_severed(traces, 2);
  EXPECT_EQ(severed.cases, 2);
  EXPECT_EQ(severed.ordinary.effect, (std::vector<double>{0.375, 0.125}));
  EXPECT_EQ(severed.no_attn.effect, (std::vector<double>{0.25, 0}));
  EXPECT_TRUE(severed.no_mlp.effect.empty());
  H5File file = H5File::create(path());
  write_dataset(file, "/layer", std::vector<int64_t>{0, 1}, {2});
  write_averages(file, TraceKind::state, averages);
  write_severed_averages(file, severed);
  EXPECT_EQ(read_dataset<double>(file, "/averages/state/mean", {6, 2}).values.at(0), 2);
  EXPECT_EQ(read_double_attribute(file, "/averages/state", "total_effect"), 0.625);
}

TEST_F(Results, FilesThatContradictThemselvesAreRefused) {
  H5File file = H5File::create(path());
  expect_message(error_of<InputError>([&] { read_traces(file); }), {"trace.h5", "/facts"});
  StoredTrace bad = example(1, 0);
  bad.subject_range = {2, 5};
  write_trace(file, bad);
  expect_message(error_of<InputError>([&] { read_traces(file); }), {"trace.h5", "/facts/1", "subject_range"});
  StoredTrace tokens = example(2, 0);
  tokens.input_tokens.pop_back();
  EXPECT_ANY_THROW(write_trace(file, tokens));
}

}  // namespace
}  // namespace loci::test
