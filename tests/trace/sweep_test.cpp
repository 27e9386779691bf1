// Sweeps planned as trees of lanes against the plain path: one full forward pass, from position 0 and block 0, for
// every intervention and corrupted copy.
#include "trace/sweep.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "kernels/softmax.h"
#include "runtime/error.h"
#include "tests/support/compare.h"
#include "tests/support/device.h"
#include "tests/support/tiny_model.h"

namespace loci::test {
namespace {

Fact make_fact(int64_t id, int64_t tokens, TokenRange subject, const Architecture& config) {
  Fact fact;
  fact.known_id = id;
  fact.tokens = random_tokens(tokens, config.vocabulary, static_cast<unsigned>(id) + 10);
  fact.subject_range = subject;
  return fact;
}

Noise make_noise(NoiseRule::Kind kind, double level) {
  Noise noise;
  noise.rule = {kind, level};
  noise.level = level;
  return noise;
}

/// One intervention of the plain path.
struct PlainPatch {
  int64_t position;
  Site site;
  int64_t layer;
};

/// Interventions computed one by one, each as a run of the whole prompt.
class PlainPath {
 public:
  PlainPath(Executor& executor, const Fact& fact, const TraceOptions& options, int64_t draw, Corruption corruption)
      : executor_(executor), fact_(fact), samples_(options.samples) {
    const int64_t subject = fact.subject_range.end - fact.subject_range.begin;
    const int64_t width = executor.model().config().width;
    const auto noise = options.noise.draw(draw + 1, samples_, subject, width)[draw];
    const ConstView table = executor.model().parameters().token_embedding.fp32();
    std::vector<float> rows;
    for (size_t i = 0; i < noise.size(); ++i) {
      const auto at = static_cast<int64_t>(i);
      const int32_t token = fact.tokens[fact.subject_range.begin + at / width % subject];
      const float own = to_host(executor.context(), {table.row(token), 1, width})[at % width];
      rows.push_back(static_cast<float>((corruption == Corruption::add ? static_cast<double>(own) : 0) + noise[i]));
    }
    embeddings_ = Tensor::from_host(executor.context(), rows, samples_ * subject, width);
    clean_ = run(-1, {}, nullptr, {}).second;
    answer_ = answer_of_clean();
  }

  /// The answer's probability with the clean rows restored, averaged over the samples; `held` rows are those of
  /// `other`'s corrupted runs without restorations.
  double score(const std::vector<PlainPatch>& restored, PlainPath* other = nullptr,
               const std::vector<PlainPatch>& held = {}) {
    double sum = 0;
    for (int64_t s = 0; s < samples_; ++s) {
      const RecordingPtr held_rows = other ? other->run(s, {}, nullptr, {}).second : nullptr;
      sum += run(s, restored, held_rows, held).first;
    }
    return sum / static_cast<double>(samples_);
  }
  double clean_score() { return run(-1, {}, nullptr, {}).first; }
  int32_t answer() const { return answer_; }

 private:
  std::pair<double, RecordingPtr> run(int64_t sample, const std::vector<PlainPatch>& restored,
                                      const RecordingPtr& held_rows, const std::vector<PlainPatch>& held) {
    Plan plan;
    plan.sequences.resize(1);
    plan.sequences[0].tokens = fact_.tokens;
    plan.sequences[0].record = true;
    for (int64_t layer = 0; layer < executor_.model().config().layers; ++layer)
      for (const Site site : {Site::attn_out, Site::mlp_out}) plan.recorded.push_back({site, layer});
    plan.wanted = {{0, std::ssize(fact_.tokens) - 1}};
    const int64_t subject = fact_.subject_range.end - fact_.subject_range.begin;
    for (int64_t i = 0; sample >= 0 && i < subject; ++i)
      plan.patches.push_back({0, fact_.subject_range.begin + i, Site::embed, 0, PatchMode::replace,
                              embeddings_.row(sample * subject + i)});
    for (const PlainPatch& patch : restored)
      plan.patches.push_back({0, patch.position, patch.site, patch.layer, PatchMode::replace,
                              clean_->row(patch.site, patch.layer, patch.position)});
    for (const PlainPatch& patch : held)
      plan.patches.push_back({0, patch.position, patch.site, patch.layer, PatchMode::replace,
                              held_rows->row(patch.site, patch.layer, patch.position)});
    Run made = executor_.run(plan);
    softmax(executor_.context(), made.logits.view(), made.logits.view());
    probabilities_ = made.logits.to_host();
    return {answer_ < 0 ? 0 : static_cast<double>(probabilities_[answer_]), made.recordings[0]};
  }
  int32_t answer_of_clean() const {
    return static_cast<int32_t>(std::max_element(probabilities_.begin(), probabilities_.end()) -
                                probabilities_.begin());
  }

  Executor& executor_;
  const Fact& fact_;
  int64_t samples_;
  Tensor embeddings_;
  RecordingPtr clean_;
  int32_t answer_ = -1;
  std::vector<float> probabilities_;
};

class SweepTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!products_are_fp32()) GTEST_SKIP() << kFp32Only;
  }
  SweepTest()
      : context_(device_options(2)),
        config_(tiny_config(4)),
        model_(random_model(context_, config_, 11)),
        executor_(context_, model_) {
    options_.samples = 2;
    options_.noise = make_noise(NoiseRule::Kind::fixed, 0.5);
  }

  std::vector<FactTrace> trace(const std::vector<Fact>& facts) {
    return trace_facts(executor_, facts, options_, [](const Fact&, int32_t) { return true; });
  }
  /// Roundings of the logits (a few hundred half units in the last place of values below 16) move a probability by as
  /// much, relative.
  static void expect_score(double actual, double expected, const std::string& what) {
    const double tolerance = 400 * kEps * 16 * expected + 1e-9;
    if (!(std::abs(actual - expected) <= tolerance))
      ADD_FAILURE() << what << ": " << actual << ", expected " << expected << " +- " << tolerance;
  }
  void compare(const Fact& fact, const FactTrace& traced) {
    PlainPath plain(executor_, fact, options_, 0, options_.corruption);
    const auto tokens = std::ssize(fact.tokens);
    const std::string name = "fact " + std::to_string(fact.known_id);
    ASSERT_EQ(traced.answer, plain.answer()) << name;
    expect_score(static_cast<double>(traced.high_score), plain.clean_score(), name + " high");
    const bool adds_at_low = options_.quirks == Quirks::published;
    PlainPath low(executor_, fact, options_, 0, adds_at_low ? Corruption::add : options_.corruption);
    expect_score(traced.low_score, low.score({}), name + " low");
    for (const TraceKind kind : options_.kinds)
      for (int64_t t = 0; t < tokens; ++t)
        for (int64_t layer = 0; layer < config_.layers; ++layer)
          expect_score(static_cast<double>(traced.of(kind).at(static_cast<size_t>(t * config_.layers + layer))),
                       plain.score(restored(kind, t, layer)),
                       name + " " + std::string(trace_kind_name(kind)) + " token " + std::to_string(t) + " layer " +
                           std::to_string(layer));
  }
  std::vector<PlainPatch> restored(TraceKind kind, int64_t position, int64_t layer) const {
    if (kind == TraceKind::state) return {{position, Site::resid, layer}};
    const LayerWindow window = layer_window(layer, options_.window, config_.layers);
    std::vector<PlainPatch> patches;
    for (int64_t l = window.begin; l < window.end; ++l)
      patches.push_back({position, kind == TraceKind::mlp ? Site::mlp_out : Site::attn_out, l});
    return patches;
  }
  std::vector<Fact> odd_facts() const {
    return {make_fact(1, 7, {0, 3}, config_),   // starts the prompt
            make_fact(2, 7, {4, 5}, config_),   // one token, late
            make_fact(3, 6, {3, 6}, config_),   // ends the prompt
            make_fact(4, 4, {0, 4}, config_),   // is the prompt
            make_fact(5, 1, {0, 1}, config_),   // a prompt of one token
            make_fact(6, 3, {1, 2}, config_)};  // one token follows
  }

  Context context_;
  Architecture config_;
  Model model_;
  Executor executor_;
  TraceOptions options_;
};

TEST_F(SweepTest, EqualsPlainPathForEveryWindow) {
  const auto facts = odd_facts();
  for (const int64_t window : {1, 2, 3, 4, 10}) {
    if (on_emulated_device() && window != 3) continue;
    options_.window = window;
    const auto traced = trace(facts);
    for (size_t i = 0; i < facts.size(); ++i) compare(facts[i], traced[i]);
  }
}

TEST_F(SweepTest, EqualsPlainPathWithReplacedEmbeddings) {
  const auto facts = odd_facts();
  options_.corruption = Corruption::replace;
  options_.noise = make_noise(NoiseRule::Kind::uniform, 0.7);
  options_.window = 2;
  for (const Quirks quirks : {Quirks::none, Quirks::published}) {
    options_.quirks = quirks;
    const auto traced = trace(facts);
    for (size_t i = 0; i < facts.size(); ++i) compare(facts[i], traced[i]);
  }
}

TEST_F(SweepTest, WavesOfAnySizeGiveTheSame) {
  const auto facts = odd_facts();
  options_.window = 3;
  const auto whole = trace(facts);
  options_.max_wave_rows = 5;
  const auto pieces = trace(facts);
  for (size_t i = 0; i < facts.size(); ++i)
    for (const TraceKind kind : kTraceKinds)
      EXPECT_TRUE(near_relative(pieces[i].of(kind), whole[i].of(kind), 400 * kEps * 16));
}

TEST_F(SweepTest, SeveredEqualsPlainPath) {
  const auto facts = odd_facts();
  options_.sever = {Sever::mlp, Sever::attn};
  for (const Quirks quirks : {Quirks::none, Quirks::published}) {
    for (const bool with_states : {true, false}) {
      options_.quirks = quirks;
      options_.kinds = with_states ? std::vector{TraceKind::state} : std::vector<TraceKind>{};
      const auto traced = trace(facts);
      for (size_t i = 0; i < facts.size(); ++i) {
        PlainPath first(executor_, facts[i], options_, 0, Corruption::add);
        PlainPath second(executor_, facts[i], options_, quirks == Quirks::published ? 1 : 0, Corruption::add);
        const int64_t position = facts[i].subject_range.end - 1;
        std::vector<PlainPatch> mlps, attentions;
        for (int64_t l = 0; l < config_.layers; ++l) {
          mlps.push_back({position, Site::mlp_out, l});
          attentions.push_back({position, Site::attn_out, l});
        }
        ASSERT_TRUE(traced[i].severed);
        for (int64_t l = 0; l < config_.layers; ++l) {
          const std::vector<PlainPatch> state = {{position, Site::resid, l}};
          const auto at = static_cast<size_t>(l);
          const std::string where = "fact " + std::to_string(facts[i].known_id) + " layer " + std::to_string(l);
          expect_score(static_cast<double>(traced[i].severed->ordinary.at(at)), first.score(state),
                       where + " ordinary");
          expect_score(static_cast<double>(traced[i].severed->no_mlp.at(at)), second.score(state, &first, mlps),
                       where + " no mlp");
          expect_score(static_cast<double>(traced[i].severed->no_attn.at(at)), second.score(state, &first, attentions),
                       where + " no attn");
        }
      }
    }
  }
}

TEST_F(SweepTest, RejectedFactsAreNotTraced) {
  const auto facts = odd_facts();
  const auto traced =
      trace_facts(executor_, facts, options_, [](const Fact& fact, int32_t) { return fact.known_id % 2 == 0; });
  for (size_t i = 0; i < facts.size(); ++i) {
    EXPECT_EQ(traced[i].correct, facts[i].known_id % 2 == 0);
    EXPECT_EQ(traced[i].of(TraceKind::mlp).empty(), !traced[i].correct);
    EXPECT_GE(traced[i].answer, 0);
  }
}

TEST_F(SweepTest, LeftOfTheSubjectNothingChanges) {
  const auto facts = std::vector{make_fact(2, 7, {4, 5}, config_)};
  const auto traced = trace(facts)[0];
  for (int64_t t = 0; t < 4; ++t)
    for (int64_t layer = 0; layer < config_.layers; ++layer)
      EXPECT_EQ(static_cast<double>(traced.of(TraceKind::mlp)[t * config_.layers + layer]), traced.low_score);
}

TEST_F(SweepTest, OptionsOutOfRangeAreRefused) {
  options_.samples = 0;
  EXPECT_THROW(trace(odd_facts()), InputError);
  options_.samples = 1;
  options_.window = 0;
  EXPECT_THROW(trace(odd_facts()), InputError);
}

TEST(LayerWindow, IsTheReferences) {
  // max(0, l - w // 2) .. min(L, l - (-w // 2))
  EXPECT_EQ(layer_window(0, 10, 48).begin, 0);
  EXPECT_EQ(layer_window(0, 10, 48).end, 5);
  EXPECT_EQ(layer_window(20, 10, 48).begin, 15);
  EXPECT_EQ(layer_window(20, 10, 48).end, 25);
  EXPECT_EQ(layer_window(47, 10, 48).end, 48);
  EXPECT_EQ(layer_window(5, 3, 48).begin, 4);
  EXPECT_EQ(layer_window(5, 3, 48).end, 7);
  EXPECT_EQ(layer_window(5, 1, 48).begin, 5);
  EXPECT_EQ(layer_window(5, 1, 48).end, 6);
}

}  // namespace
}  // namespace loci::test
