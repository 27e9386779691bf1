// Every cell of the reference's traces of the golden model.
#include <gtest/gtest.h>

#include <map>

#include "tests/support/compare.h"
#include "tests/support/golden_model.h"
#include "tests/support/npz.h"
#include "trace/sweep.h"

namespace loci::test {
namespace {

/// The reference sums 50257 exponentials in fp32 for its softmax: a relative error of its probabilities of up to some
/// 50257 eps / 2 in the worst case; measured against fp64 it is below 5e-5, ours below 2e-7.
constexpr double kTolerance = 6e-5;

class GoldenTrace : public GoldenModelTest {
 protected:
  void SetUp() override {
    GoldenModelTest::SetUp();
    if (IsSkipped()) return;
    facts_ = read_facts(golden_ / "trace/facts.json", *tokenizer_, 160, OnInvalid::refuse).facts;
    const auto noise = read_npz(golden_ / "trace/noise.npz");
    options_.quirks = Quirks::published;
    options_.noise.level = noise.at("level").scalar<double>();
    options_.noise.rule = {NoiseRule::Kind::fixed, options_.noise.level};
    deviation_ = noise.at("std").scalar<double>();
  }

  std::vector<FactTrace> trace(std::span<const Fact> facts) {
    return trace_facts(*executor_, facts, options_, [&](const Fact& fact, int32_t answer) {
      return strip(tokenizer_->decode_text(std::span(&answer, 1))) == fact.attribute;
    });
  }
  /// The facts that the reference traced with one set of options.
  std::vector<Fact> facts_of(const std::string& set) const {
    std::vector<Fact> facts;
    for (const Fact& fact : facts_)
      if (std::filesystem::exists(path_of(set, fact, TraceKind::state))) facts.push_back(fact);
    return facts;
  }
  std::filesystem::path path_of(const std::string& set, const Fact& fact, TraceKind kind) const {
    const std::string suffix = kind == TraceKind::state ? "" : "_" + std::string(trace_kind_name(kind));
    return golden_ / "trace" / set / ("knowledge_" + std::to_string(fact.known_id) + suffix + ".npz");
  }
  void compare(const std::string& set, int64_t expected_facts) {
    const auto facts = facts_of(set);
    ASSERT_EQ(std::ssize(facts), expected_facts);
    const auto traces = trace(facts);
    for (size_t i = 0; i < facts.size(); ++i)
      for (const TraceKind kind : kTraceKinds) {
        const auto path = path_of(set, facts[i], kind);
        const auto golden = read_npz(path);
        ASSERT_EQ(traces[i].correct, npy_boolean(golden.at("correct_prediction"))) << path;
        if (!traces[i].correct) continue;
        EXPECT_TRUE(near(traces[i].of(kind), golden.at("scores").as<float>(), kTolerance)) << path;
        EXPECT_NEAR(traces[i].low_score, golden.at("low_score").scalar<double>(), kTolerance) << path;
        EXPECT_NEAR(traces[i].high_score, golden.at("high_score").scalar<float>(), kTolerance) << path;
        const auto range = golden.at("subject_range").as<int64_t>();
        EXPECT_EQ(facts[i].subject_range, (TokenRange{range[0], range[1]})) << path;
        EXPECT_EQ((std::vector<int64_t>{facts[i].tokens.begin(), facts[i].tokens.end()}),
                  golden.at("input_ids").as<int64_t>())
            << path;
      }
  }

  std::vector<Fact> facts_;
  TraceOptions options_;
  double deviation_ = 0;
};

TEST_F(GoldenTrace, NormalNoise) { compare("n_s3", 22); }

TEST_F(GoldenTrace, NarrowWindowAndFewSamples) {
  options_.window = 4;
  options_.samples = 5;
  compare("n_w4_S5", 3);
}

TEST_F(GoldenTrace, UniformNoise) {
  options_.noise.level = 3 * deviation_;
  options_.noise.rule = {NoiseRule::Kind::uniform, options_.noise.level};
  compare("n_u3", 3);
}

TEST_F(GoldenTrace, FixedLevel) {
  options_.noise.level = 0.1;
  compare("n_f0.1", 3);
}

TEST_F(GoldenTrace, ReplacedEmbeddings) {
  options_.corruption = Corruption::replace;
  compare("n_replace", 3);
}

TEST_F(GoldenTrace, SeveredGraph) {
  options_.kinds = {};
  options_.sever = {Sever::mlp, Sever::attn};
  const auto traces = trace(facts_);
  int64_t compared = 0;
  for (size_t i = 0; i < facts_.size(); ++i) {
    if (!traces[i].correct) continue;
    const std::map<std::string, const std::vector<float>*> series = {{"ordinary", &traces[i].severed->ordinary},
                                                                     {"no_mlp", &traces[i].severed->no_mlp},
                                                                     {"no_attn", &traces[i].severed->no_attn}};
    for (const auto& [name, scores] : series) {
      const auto path = golden_ / "trace/severed" / (std::to_string(facts_[i].known_id) + "_" + name + ".npz");
      EXPECT_TRUE(near(*scores, read_npz(path).at("scores").as<float>(), kTolerance)) << path;
      ++compared;
    }
  }
  EXPECT_EQ(compared, 60);
}

TEST_F(GoldenTrace, NoiseLevelOfAllSubjects) {
  const FactFile all = read_facts(golden_ / "trace/all_facts.json", *tokenizer_, 160, OnInvalid::skip);
  std::vector<std::vector<int32_t>> subjects;
  for (const std::string& subject : all.subjects) subjects.push_back(tokenizer_->encode_ids(subject));
  // Rounded to fp32 by both; the reference's sum is fp32 too.
  EXPECT_NEAR(embedding_deviation(*context_, *model_, subjects), deviation_, 1e-6 * deviation_);
}

}  // namespace
}  // namespace loci::test
