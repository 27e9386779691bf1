// Rank-one edits on random models: the definitions of the methods, the optimiser of v*, edited lanes and files.
#include "edit/rome/rome.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "edit/edit_file.h"
#include "edit/edited_checkpoint.h"
#include "runtime/io/atomic_file.h"
#include "runtime/jobs/provenance.h"
#include "tests/edit/support.h"
#include "tests/support/compare.h"
#include "tests/support/device.h"
#include "tests/support/errors.h"
#include "tests/support/paths.h"

namespace loci::test {
namespace {

constexpr int64_t kLayer = 1;

const std::vector<EditRequest> kRomeRequests = {{0, "{}, the", "Rome", "sea", "land"},
                                                {1, "In {} is a", "Paris", "b", ""},
                                                {2, "{}", "X", "yz", ""},
                                                {3, "see {}", "an é", "q", ""}};

class Rome : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!products_are_fp32()) GTEST_SKIP() << kFp32Only;
  }
  RomeSettings settings(RomeMethod method = RomeMethod::rome) {
    RomeSettings made;
    made.method = method;
    made.hparams.layer = kLayer;
    made.hparams.value = {.steps = 8, .learning_rate = 0.2, .weight_decay = 0.1, .clamp_factor = 2};
    made.templates = {"{}", "Yes. {}", "No no. {}", "Yes. {}"};
    made.second_moment = random_factor(context_, model_.config().mlp_width, 5);
    return made;
  }
  std::vector<RankOneEdit> edits(const RomeSettings& settings, std::span<const EditRequest> requests = kRomeRequests) {
    Executor executor(context_, model_);
    return compute_edits(executor, tokenizer_, settings, requests);
  }
  std::vector<float> applied_value(const RankOneEdit& edit, std::span<const float> key) {
    Model edited = random_model(context_, model_.config(), 3);
    apply(context_, edited, edit);
    return down(context_, edited, edit.layer, key);
  }

  Context context_{device_options()};
  Model model_ = random_model(context_, byte_config(), 3);
  Tokenizer tokenizer_ = byte_tokenizer();
};

/// The MLP key and output at one position of a plain run, the oracle for keys and values.
std::pair<std::vector<float>, std::vector<float>> plain_key(Context& context, const Model& model, int64_t layer,
                                                            const EditPrompt& prompt) {
  Executor executor(context, model);
  Tensor key(context, 1, model.config().mlp_width), value(context, 1, model.config().width);
  for (const auto& [site, output] : {std::pair{Site::mlp_key, &key}, std::pair{Site::mlp_out, &value}}) {
    Plan plan;
    plan.sequences.push_back({.tokens = prompt.tokens, .base = nullptr});
    plan.taps.push_back({0, prompt.lookup, site, layer, 0});
    plan.tap_output = output->view();
    plan.wanted.push_back({0, 0});
    executor.run(plan);
  }
  return {key.to_host(), value.to_host()};
}

// Sums of up to 50 products in another order.
constexpr double kRounding = 64 * kEps;

TEST_F(Rome, KeysAndValuesAreThoseOfPlainRuns) {
  const RomeSettings made = settings();
  const std::vector<RankOneEdit> found = edits(made);
  for (size_t r = 0; r < kRomeRequests.size(); ++r) {
    const PreparedRequest request = prepare_request(kRomeRequests[r], made.templates, FactToken::subject_last,
                                                    TeacherForcing::tokens, tokenizer_, model_.config(), "case");
    std::vector<float> mean(static_cast<size_t>(model_.config().mlp_width));
    for (const EditPrompt& prompt : request.prompts) {
      const auto key = plain_key(context_, model_, kLayer, prompt).first;
      for (size_t i = 0; i < mean.size(); ++i) mean[i] += key[i] * static_cast<float>(prompt.weight) / 4;
    }
    const auto [key, value] = plain_key(context_, model_, kLayer, request.prompts[0]);
    EXPECT_LE(relative_error(found[r].k_bare, key), kRounding) << r;
    EXPECT_LE(relative_error(found[r].value_before, value), kRounding) << r;
    EXPECT_LE(relative_error(found[r].k_mean, mean), kRounding) << r;
  }
}

TEST_F(Rome, DirectionSolvesC) {
  const std::vector<double> c = random_definite(model_.config().mlp_width, 5);
  for (const RankOneEdit& edit : edits(settings())) {
    EXPECT_NEAR(norm(edit.u), 1, 4 * kEps);
    std::vector<float> back(edit.u.size());  // C u is k_mean up to a factor
    for (size_t i = 0; i < back.size(); ++i) {
      double sum = 0;
      for (size_t j = 0; j < back.size(); ++j) sum += c[i * back.size() + j] * static_cast<double>(edit.u[j]);
      back[i] = static_cast<float>(sum);
    }
    EXPECT_GE(cosine(back, edit.k_mean), 1 - 1e-10);
  }
}

TEST_F(Rome, WithoutSecondMomentsTheDirectionIsTheKey) {
  RomeSettings made = settings();
  made.hparams.uses_second_moment = false;
  made.second_moment = nullptr;
  for (const RankOneEdit& edit : edits(made)) EXPECT_GE(cosine(edit.u, edit.k_mean), 1 - 1e-12);
}

// W' k_0 = v* at the method's key. v is rounded once, and scaled by k_0 . u again: cond. of the sum |k_0||u| / (k_0 .
// u).
TEST_F(Rome, NewValueIsExactAtTheMethodsKey) {
  for (const RomeMethod method : {RomeMethod::rome, RomeMethod::r_rome, RomeMethod::p_rome}) {
    SCOPED_TRACE(rome_method_name(method));
    for (const RankOneEdit& edit : edits(settings(method))) {
      const std::vector<float>& key = method == RomeMethod::r_rome ? edit.k_mean : edit.k_bare;
      const double condition = norm(key) / std::abs(dot(key, edit.u));
      EXPECT_LE(relative_error(applied_value(edit, key), edit.value_star), 8 * kRounding * condition);
    }
  }
}

TEST_F(Rome, MethodsDifferInTheirKeysAlone) {
  const auto rome = edits(settings(RomeMethod::rome)), r_rome = edits(settings(RomeMethod::r_rome)),
             p_rome = edits(settings(RomeMethod::p_rome));
  for (size_t r = 0; r < kRomeRequests.size(); ++r) {
    EXPECT_TRUE(identical(rome[r].u, r_rome[r].u));
    EXPECT_TRUE(identical(rome[r].value_star, r_rome[r].value_star));
    EXPECT_TRUE(identical(rome[r].value_star, p_rome[r].value_star));
    EXPECT_FALSE(identical(rome[r].v, r_rome[r].v));
    // p-rome is rome where the only template is the bare prompt, but for v*.
    RomeSettings bare = settings(RomeMethod::rome);
    bare.templates = {"{}"};
    EXPECT_LE(relative_error(p_rome[r].u, edits(bare, std::span(&kRomeRequests[r], 1))[0].u), 1e-4);
  }
}

TEST_F(Rome, OneRequestGivesWhatABatchGives) {
  const RomeSettings made = settings();
  const std::vector<RankOneEdit> batch = edits(made);
  for (size_t r = 0; r < kRomeRequests.size(); ++r) {
    const RankOneEdit alone = edits(made, std::span(&kRomeRequests[r], 1))[0];
    EXPECT_LE(relative_error(alone.u, batch[r].u), 1e-5);
    EXPECT_LE(relative_error(alone.value_star, batch[r].value_star), 1e-4);
    EXPECT_EQ(alone.loss_curve.size(), batch[r].loss_curve.size());
  }
}

TEST_F(Rome, LossFallsAndStaysWithinTheClamp) {
  RomeSettings made = settings();
  made.hparams.value.steps = 20;
  for (const RankOneEdit& edit : edits(made)) {
    EXPECT_LT(edit.loss_curve.back().total, edit.loss_curve.front().total);
    EXPECT_EQ(edit.loss_curve.front().decay, 0);
    EXPECT_NEAR(edit.loss_curve.front().essence, 0, 1e-6);
    std::vector<float> delta = edit.value_star;
    for (size_t i = 0; i < delta.size(); ++i) delta[i] -= edit.value_before[i];
    EXPECT_LE(norm(delta), 2 * norm(edit.value_before) * (1 + 32 * kEps));
    for (const LossRow& row : edit.loss_curve) EXPECT_EQ(row.total, row.target + row.essence + row.decay);
  }
}

TEST_F(Rome, OneStepEvaluatesAndChangesNothing) {
  RomeSettings made = settings();
  made.hparams.value.steps = 1;
  for (const RankOneEdit& edit : edits(made)) {
    EXPECT_EQ(edit.loss_curve.size(), 1u);
    EXPECT_TRUE(identical(edit.value_star, edit.value_before));
    EXPECT_LE(norm(edit.v), 1e-5 * norm(edit.value_before));
  }
}

TEST_F(Rome, RequestsThatAreDoneLeaveTheBatch) {
  RomeSettings made = settings();
  made.hparams.value.steps = 12;
  made.hparams.value.stop_loss = 0;
  const std::vector<RankOneEdit> whole = edits(made);
  // Between the lowest and the highest loss of the fifth step, so that some leave early and some do not.
  double lowest = 1e9, highest = 0;
  for (const RankOneEdit& edit : whole) {
    ASSERT_EQ(edit.loss_curve.size(), 12u);
    lowest = std::min(lowest, edit.loss_curve[4].total);
    highest = std::max(highest, edit.loss_curve[4].total);
  }
  made.hparams.value.stop_loss = (lowest + highest) / 2;
  const std::vector<RankOneEdit> stopped = edits(made);
  std::set<size_t> lengths;
  for (size_t r = 0; r < stopped.size(); ++r) {
    const std::vector<LossRow>& curve = stopped[r].loss_curve;
    lengths.insert(curve.size());
    for (size_t s = 0; s < curve.size(); ++s) {
      EXPECT_NEAR(curve[s].total, whole[r].loss_curve[s].total, 1e-4) << "request " << r << " step " << s;
      EXPECT_EQ(curve[s].total < made.hparams.value.stop_loss, s + 1 == curve.size() && curve.size() < 12);
    }
  }
  EXPECT_GT(lengths.size(), 1u) << "no request left before another";
}

// The first step of Adam is lr * sign(gradient): the sign must be that of a finite difference of the loss.
TEST_F(Rome, FirstStepGoesDownhill) {
  RomeSettings made = settings();
  made.hparams.value.steps = 2;
  made.hparams.value.learning_rate = 1e-3;
  made.hparams.value.weight_decay = 0;
  for (const RankOneEdit& edit : edits(made)) EXPECT_LT(edit.loss_curve[1].total, edit.loss_curve[0].total);
}

/// Logits at a prompt's last token.
std::vector<float> last_logits(Executor& executor, const std::vector<int32_t>& tokens, const RankOneEdit* edit) {
  Plan plan;
  plan.sequences.push_back({.tokens = tokens, .base = nullptr});
  plan.wanted.push_back({0, std::ssize(tokens) - 1});
  Tensor u, v;
  if (edit) {
    u = Tensor::from_host(executor.context(), edit->u, 1, std::ssize(edit->u));
    v = Tensor::from_host(executor.context(), edit->v, 1, std::ssize(edit->v));
    plan.branches.push_back(rank_one_branch(0, edit->layer, u.view(), v.view()));
  }
  return executor.run(plan).logits.to_host();
}

TEST_F(Rome, BranchesEqualEditedWeights) {
  const std::vector<int32_t> tokens = tokenizer_.encode_ids("Rome, the");
  for (const RankOneEdit& edit : edits(settings())) {
    Model edited = random_model(context_, model_.config(), 3);
    apply(context_, edited, edit);
    Executor plain(context_, model_), changed(context_, edited);
    const auto with_term = last_logits(plain, tokens, &edit), with_weights = last_logits(changed, tokens, nullptr);
    EXPECT_LE(relative_error(with_term, with_weights), 1e-4);
    EXPECT_GT(relative_error(last_logits(plain, tokens, nullptr), with_weights), 1e-3);
  }
}

TEST_F(Rome, EditsOfTheLastLayerAreMadeToo) {
  RomeSettings made = settings();
  made.hparams.layer = model_.config().layers - 1;
  const EditRequest ends{0, "in {}", "Rome", "b", ""};
  const RankOneEdit edit = edits(made, std::span(&ends, 1))[0];
  EXPECT_LT(edit.loss_curve.back().total, edit.loss_curve.front().total);
}

TEST_F(Rome, SettingsThatDoNotFitAreRefused) {
  const auto refused = [&](auto&& change) {
    RomeSettings made = settings();
    change(made);
    return error_of<InputError>([&] { edits(made); });
  };
  expect_message(refused([](RomeSettings& s) { s.hparams.layer = 4; }), {"layer 4", "0 to 3"});
  expect_message(refused([](RomeSettings& s) { s.hparams.layer = -1; }), {"no layer", "layer"});
  expect_message(refused([](RomeSettings& s) { s.second_moment = nullptr; }), {"give cov FILE"});
  expect_message(refused([&](RomeSettings& s) { s.second_moment = random_factor(context_, 20, 1); }), {"20", "50"});
  expect_message(refused([](RomeSettings& s) { s.templates = {}; }), {"empty"});
  expect_message(refused([](RomeSettings& s) { s.templates = {"x"}; }), {"exactly one"});
  expect_message(error_of<InputError>([] { rome_method_from_name("memit"); }), {"memit", "r-rome"});
  expect_message(error_of<NumericalError>([] {
                   const std::vector<float> value = {1}, u = {1, 0};
                   const std::vector<double> before = {0}, key = {0, 1};
                   insertion_vector(value, before, key, u, "case 3");
                 }),
                 {"case 3", "orthogonal"});
}

// --- Outcomes --------------------------------------------------------------------------------------------------------

/// The product of a target's probabilities, from a whole forward pass and fp64 softmax; and the first token's arg max.
struct PlainAnswer {
  double whole = 1, first = 0, best_probability = 0;
  int32_t best = 0;
};
PlainAnswer plain_answer(Context& context, const Model& model, std::vector<int32_t> tokens,
                         const std::vector<int32_t>& target) {
  PlainAnswer answer;
  for (size_t t = 0; t < target.size(); ++t) {
    Executor executor(context, model);
    const std::vector<float> logits = last_logits(executor, tokens, nullptr);
    const auto best = std::max_element(logits.begin(), logits.end());
    double sum = 0;
    for (const float logit : logits) sum += std::exp(double{logit} - double{*best});
    const double probability = std::exp(double{logits[target[t]]} - double{*best}) / sum;
    answer.whole *= probability;
    if (t == 0) answer = {probability, probability, 1 / sum, static_cast<int32_t>(best - logits.begin())};
    tokens.push_back(target[t]);
  }
  return answer;
}

TEST_F(Rome, OutcomesAreThoseOfWholeForwardPasses) {
  const std::vector<RankOneEdit> made = edits(settings());
  Executor executor(context_, model_);
  const std::vector<EditOutcome> outcomes = score_outcomes(executor, tokenizer_, batches_of(made));
  ASSERT_EQ(outcomes.size(), made.size());
  const auto expect_equal = [&](const PromptAnswer& answer, const Model& model, const EditRequest& request) {
    const auto prompt = tokenizer_.encode_ids(bare_prompt(request));
    const PlainAnswer expected =
        plain_answer(context_, model, prompt, tokenizer_.encode_ids(spaced_target(request.target_new)));
    // Logits differ by less than 1e-4 in another order of sums.
    EXPECT_NEAR(answer.target_new.whole / expected.whole, 1, 1e-3);
    EXPECT_NEAR(answer.target_new.first / expected.first, 1, 1e-3);
    EXPECT_NEAR(answer.most_likely_probability / expected.best_probability, 1, 1e-3);
    EXPECT_EQ(answer.most_likely, tokenizer_.decode_text(std::span(&expected.best, 1)));
    EXPECT_EQ(answer.target_true.has_value(), !request.target_true.empty());
    if (!answer.target_true) return;
    const PlainAnswer of_true =
        plain_answer(context_, model, prompt, tokenizer_.encode_ids(spaced_target(request.target_true)));
    EXPECT_NEAR(answer.target_true->whole / of_true.whole, 1, 1e-3);
  };
  for (size_t i = 0; i < made.size(); ++i) {
    SCOPED_TRACE(i);
    Model edited = random_model(context_, model_.config(), 3);
    apply(context_, edited, made[i]);
    expect_equal(outcomes[i].before, model_, made[i].request);
    expect_equal(outcomes[i].after, edited, made[i].request);
    Executor changed(context_, edited);
    const PromptAnswer alone = answer_bare_prompts(changed, tokenizer_, std::span(&made[i].request, 1))[0];
    EXPECT_NEAR(alone.target_new.whole / outcomes[i].after.target_new.whole, 1, 1e-3);
    EXPECT_EQ(alone.most_likely, outcomes[i].after.most_likely);
    EXPECT_FALSE(outcomes[i].took());  // this random model does not say a space
  }
}

TEST_F(Rome, ATrueTargetThatDoesNotFitIsLeftOut) {
  Executor executor(context_, model_);
  EditRequest request = kRomeRequests[0];
  const auto has_true = [&](std::string target) {
    request.target_true = std::move(target);
    return answer_bare_prompts(executor, tokenizer_, std::span(&request, 1))[0].target_true.has_value();
  };
  // "Rome, the" takes 9 of the 64 positions; a target's last token is only predicted, and a space comes before it.
  EXPECT_TRUE(has_true(std::string(55, 'x')));
  EXPECT_FALSE(has_true(std::string(56, 'x')));
  EXPECT_FALSE(has_true("<|endoftext|>"));  // stands for an unknown one
}

// --- Edit files ------------------------------------------------------------------------------------------------------

void write_edits(const std::filesystem::path& path, std::span<const EditBatch> batches, const std::string& weights,
                 const char* mode = "independent") {
  write_hdf5_atomically(path, [&](H5File& file) {
    Provenance provenance = current_provenance();
    provenance.weights_sha256 = weights;
    write_provenance(file, Json::object(), provenance);
    write_attribute(file, "/", "kind", "edits");
    write_attribute(file, "/", "mode", mode);
    write_batches(file, byte_config(), batches, 0, 0);
  });
}

void write_edits(const std::filesystem::path& path, const std::vector<RankOneEdit>& edits, const std::string& weights,
                 const char* mode = "independent") {
  write_edits(path, batches_of(edits), weights, mode);
}

TEST_F(Rome, EditFilesComeBack) {
  const TemporaryDir dir;
  const std::vector<RankOneEdit> made = edits(settings());
  write_edits(dir.file("e.h5"), made, "abc");
  const EditFile file = read_edit_file(dir.file("e.h5"), byte_config());
  EXPECT_EQ(file.mode, EditMode::independent);
  EXPECT_EQ(file.weights_sha256, "abc");
  ASSERT_EQ(file.edits.size(), made.size());
  for (size_t i = 0; i < made.size(); ++i) {
    EXPECT_EQ(file.edits[i].request, made[i].request);
    EXPECT_EQ(file.edits[i].layer, kLayer);
    const auto& change = std::get<LowRank>(file.updates[i].change);
    EXPECT_EQ(change.weight, (WeightId{Role::down_weight, kLayer}));
    EXPECT_TRUE(identical(change.keys, made[i].u));
    EXPECT_TRUE(identical(change.values, made[i].v));
    EXPECT_TRUE(std::ranges::equal(file.edits[i].values("k_mean"), made[i].k_mean));
    EXPECT_TRUE(std::ranges::equal(file.edits[i].values("k_bare"), made[i].k_bare));
    EXPECT_TRUE(std::ranges::equal(file.edits[i].values("value_before"), made[i].value_before));
    EXPECT_TRUE(std::ranges::equal(file.edits[i].values("value_star"), made[i].value_star));
    ASSERT_EQ(file.edits[i].loss_curve.size(), made[i].loss_curve.size());
    EXPECT_EQ(file.edits[i].loss_curve.back().total, made[i].loss_curve.back().total);
    EXPECT_FALSE(file.edits[i].outcome);
    const EditReport report = read_edit_report(H5File::open_read(dir.file("e.h5")), static_cast<int64_t>(i));
    EXPECT_EQ(report.request, made[i].request);
    EXPECT_EQ(report.layer, kLayer);
    EXPECT_EQ(report.update_norm, norm_of(to_batch(made[i]).changes));
    EXPECT_EQ(report.steps, std::ssize(made[i].loss_curve));
    EXPECT_EQ(report.first_loss.total, made[i].loss_curve.front().total);
    EXPECT_EQ(report.last_loss.total, made[i].loss_curve.back().total);
  }
}

TEST_F(Rome, OutcomesComeBackWithTheirFile) {
  const TemporaryDir dir;
  std::vector<EditBatch> batches = batches_of(edits(settings(), std::span(kRomeRequests).first(2)));
  std::array<EditOutcome, 2> outcomes;
  outcomes[0] = EditOutcome{{{0.25, 0.5, 2}, TargetProbability{0.125, 0.75, 3}, " a", 0.75, false},
                            {{0.5, 0.625, 2}, TargetProbability{0.0625, 0.25, 3}, " é", 0.625, true},
                            PromptAnswer{{0.1, 0.2, 2}, TargetProbability{0.3, 0.4, 3}, "", 0.5, false}};
  outcomes[1] = EditOutcome{{{0.25, 0.25, 1}, {}, "\"", 0.5, false}, {{0.3, 0.3, 1}, {}, "\n", 0.4, false}, {}};
  for (size_t i = 0; i < outcomes.size(); ++i) batches[i].edits[0].outcome = outcomes[i];
  write_edits(dir.file("e.h5"), batches, "abc");
  const EditFile file = read_edit_file(dir.file("e.h5"), byte_config());
  for (size_t i = 0; i < outcomes.size(); ++i) {
    ASSERT_TRUE(file.edits[i].outcome);
    EXPECT_EQ(outcome_to_json(*file.edits[i].outcome), outcome_to_json(outcomes[i]));
    EXPECT_EQ(file.edits[i].outcome->after.target_new.tokens, outcomes[i].after.target_new.tokens);
    EXPECT_EQ(file.edits[i].outcome->took(), i == 0);
  }
  EXPECT_EQ(file.edits[0].outcome->with_all->target_true->tokens, 3);
  EXPECT_FALSE(file.edits[1].outcome->with_all);
  EXPECT_EQ(outcome_to_json(outcomes[0]), Json::parse(R"({"took": true,
              "before": {"p_new": 0.25, "p_new_first_token": 0.5, "p_true": 0.125, "p_true_first_token": 0.75,
                         "most_likely": {"text": " a", "probability": 0.75}, "says_new": false},
              "after": {"p_new": 0.5, "p_new_first_token": 0.625, "p_true": 0.0625, "p_true_first_token": 0.25,
                        "most_likely": {"text": " é", "probability": 0.625}, "says_new": true},
              "with_all_edits": {"p_new": 0.1, "p_new_first_token": 0.2, "p_true": 0.3, "p_true_first_token": 0.4,
                                 "most_likely": {"text": "", "probability": 0.5}, "says_new": false}})"));
  EXPECT_EQ(
      describe_change(outcomes[0].before, outcomes[0].after),
      "p(new) 0.25 -> 0.5 (its first token 0.5 -> 0.625), p(true) 0.125 -> 0.0625 (its first token 0.75 -> 0.25), "
      "most likely \" a\" 0.75 -> \" é\" 0.625");
}

TEST_F(Rome, DamagedEditFilesAreRefused) {
  const TemporaryDir dir;
  const std::string path = dir.file("e.h5");
  const RankOneEdit good = edits(settings(), std::span(kRomeRequests).first(1))[0];
  const auto refused = [&](auto&& change) {
    RankOneEdit edit = good;
    change(edit);
    write_edits(path, std::vector{edit}, "abc");
    return error_of<InputError>([&] { read_edit_file(path, byte_config()); });
  };
  expect_message(refused([](RankOneEdit& e) { e.u[3] = std::nanf(""); }), {"e.h5", "/edits/0/u", "not finite"});
  expect_message(refused([](RankOneEdit& e) { e.k_mean.pop_back(); }), {"e.h5", "k_mean", "49", "50"});
  expect_message(refused([](RankOneEdit& e) { e.value_star.push_back(0); }), {"e.h5", "value_star"});
  expect_message(refused([](RankOneEdit& e) { e.layer = -2; }), {"e.h5", "layer", "-2"});
  write_edits(path, std::vector<RankOneEdit>(), "abc");
  expect_message(error_of<InputError>([&] { read_edit_file(path, byte_config()); }), {"e.h5"});
  write_edits(path, std::vector{good}, "abc", "both");
  expect_message(error_of<InputError>([&] { read_edit_file(path, byte_config()); }), {"e.h5", "mode", "both"});
  write_hdf5_atomically(path, [](H5File& file) { write_attribute(file, "/", "kind", "trace"); });
  expect_message(error_of<InputError>([&] { read_edit_file(path, byte_config()); }), {"e.h5", "not a file of edits"});
  write_file_atomically(path, "not HDF5");
  expect_message(error_of<InputError>([&] { read_edit_file(path, byte_config()); }), {"e.h5"});
}

TEST_F(Rome, EditsBelongToTheEditsThatTheyWereMadeOn) {
  EditFile first = file_of("a.h5", EditMode::independent, "abc", edits(settings(), std::span(kRomeRequests).first(1)));
  EditChain chain;
  EXPECT_EQ(chain.sha256(), "");
  chain.add(std::span(&first.updates[0].change, 1), model_.config());
  const std::string base = chain.sha256();
  const auto refusal = [&](const std::string& wanted, const std::string& found) {
    EditFile second = first;
    second.path = "b.h5";
    second.base_edits_sha256 = wanted;
    return error_of<InputError>([&] { check_edits_fit(second, model_.config(), {"abc", found}); });
  };
  expect_message(refusal(base, ""), {"b.h5", "on top of others", "edits FIRST.h5,b.h5"});
  expect_message(refusal("", base), {"b.h5", "without other edits"});
  expect_message(refusal("other", base), {"b.h5", "than those before it"});
  first.base_edits_sha256 = base;
  check_edits_fit(first, model_.config(), {"abc", base});
  // By content: in one step or two, but in this order, and every value counts.
  std::vector<Change> two = changes_of(edits(settings(), std::span(kRomeRequests).first(2)));
  EditChain once, twice, swapped;
  once.add(two, model_.config());
  for (const size_t i : {0u, 1u}) twice.add(std::span(two).subspan(i, 1), model_.config());
  for (const size_t i : {1u, 0u}) swapped.add(std::span(two).subspan(i, 1), model_.config());
  EXPECT_EQ(once.sha256(), twice.sha256());
  EXPECT_NE(once.sha256(), swapped.sha256());
  auto& second = std::get<LowRank>(two[1]);
  second.values[0] = std::nextafter(second.values[0], 1.0f);
  EditChain changed;
  changed.add(two, model_.config());
  EXPECT_NE(once.sha256(), changed.sha256());
  second.weight.layer += 2;
  changed.add(two, model_.config());
  EXPECT_EQ(changed.weights(), (std::set<WeightId>{{Role::down_weight, kLayer}, {Role::down_weight, kLayer + 2}}));
}

TEST_F(Rome, EditsOfAnotherModelAreRefused) {
  EditFile file = file_of("e.h5", EditMode::independent, "abc", edits(settings(), std::span(kRomeRequests).first(1)));
  auto& change = std::get<LowRank>(file.updates[0].change);
  check_edits_fit(file, model_.config(), {"abc", ""});
  expect_message(error_of<InputError>([&] {
                   check_edits_fit(file, model_.config(), {"def", ""});
                 }),
                 {"e.h5", "another model"});
  change.weight.layer = 9;
  expect_message(error_of<InputError>([&] {
                   check_edits_fit(file, model_.config(), {"abc", ""});
                 }),
                 {"e.h5", "layer 9"});
}

/// A checkpoint of random weights.
void write_random_checkpoint(Context& context, const Architecture& config, const std::filesystem::path& dir) {
  auto owned = random_parameters(context, config, 3);
  std::map<std::string, std::vector<float>> values;
  std::map<std::string, std::span<const float>> tensors;
  visit_parameters(owned->views, config, [&](const Parameter& parameter, View& view) {
    values[parameter.name] = to_host(context, view);
    tensors[parameter.name] = values[parameter.name];
  });
  write_checkpoint(dir, config, tensors);
}

/// The checkpoint of a folder once more, with other names of its tensors.
void rename_tensors(const std::filesystem::path& dir, const std::function<std::string(const std::string&)>& renamed) {
  const std::string bytes = read_text_file(dir / "model.safetensors");
  const SafetensorsHeader header = parse_safetensors_header(std::as_bytes(std::span(bytes)), "model.safetensors");
  std::vector<TensorData> tensors;
  for (const auto& [name, entry] : header.tensors) {
    const auto data =
        std::as_bytes(std::span(bytes)).subspan(header.buffer_offset + entry.begin, entry.end - entry.begin);
    tensors.push_back({entry.info, data});
    tensors.back().info.name = renamed(name);
  }
  write_safetensors(dir / "model.safetensors", tensors);
}

TEST_F(Rome, ExportAndRevertKeepTheNamesOfTheCheckpoint) {
  const TemporaryDir dir;
  const std::filesystem::path original = dir.path() / "model", edited = dir.path() / "edited",
                              reverted = dir.path() / "reverted";
  write_random_checkpoint(context_, model_.config(), original);
  rename_tensors(original, [](const std::string& name) {
    return "module." + (name == "transformer.wte.weight" ? "lm_head.weight" : name);
  });
  const auto names = SafetensorsFile(original / "model.safetensors").names();
  const std::string hash = Checkpoint::open(original).weights_sha256();
  Model model = Model::load(context_, original);
  EditChain chain;
  apply_edits(context_, model, file_of("e.h5", EditMode::sequential, hash, edits(settings())), chain);
  write_edited_checkpoint(context_, model, chain, edited, OnExistingCheckpoint::refuse);
  EXPECT_EQ(SafetensorsFile(edited / "model.safetensors").names(), names);
  EXPECT_NE(Checkpoint::open(edited).weights_sha256(), hash);
  write_reverted_checkpoint(edited, reverted, OnExistingCheckpoint::refuse);
  EXPECT_EQ(SafetensorsFile(reverted / "model.safetensors").names(), names);
  EXPECT_EQ(Checkpoint::open(reverted).weights_sha256(), hash);
}

TEST_F(Rome, ExportedEditsAreRevertedBitForBit) {
  const TemporaryDir dir;
  const std::filesystem::path original = dir.path() / "model", edited = dir.path() / "edited",
                              reverted = dir.path() / "reverted";
  write_random_checkpoint(context_, model_.config(), original);
  const std::string hash = Checkpoint::open(original).weights_sha256();
  const EditFile file = file_of("e.h5", EditMode::sequential, hash, edits(settings()));
  Model model = Model::load(context_, original);
  EditChain chain;
  apply_edits(context_, model, file, chain);
  write_edited_checkpoint(context_, model, chain, edited, OnExistingCheckpoint::refuse);
  const Model loaded = Model::load(context_, edited);
  EXPECT_NE(loaded.checkpoint().weights_sha256(), hash);
  EXPECT_TRUE(identical(stored_to_host(context_, loaded.parameters().blocks[kLayer].down_weight.stored()),
                        stored_to_host(context_, model.parameters().blocks[kLayer].down_weight.stored())));
  expect_message(error_of<InputError>(
                     [&] { write_edited_checkpoint(context_, model, chain, edited, OnExistingCheckpoint::refuse); }),
                 {"export ", "overwrite"});
  expect_message(error_of<InputError>(
                     [&] { write_edited_checkpoint(context_, model, chain, original, OnExistingCheckpoint::replace); }),
                 {"export ", "the model itself"});
  write_reverted_checkpoint(edited, reverted, OnExistingCheckpoint::refuse);
  EXPECT_EQ(Checkpoint::open(reverted).weights_sha256(), hash);
  EXPECT_FALSE(std::filesystem::exists(reverted / kLineageFile));  // the original was not made from another
  expect_message(error_of<InputError>(
                     [&] { write_reverted_checkpoint(original, dir.path() / "other", OnExistingCheckpoint::refuse); }),
                 {kOriginalsFile});
  EXPECT_FALSE(std::filesystem::exists(dir.path() / "other"));
  // A model that was changed after its export leaves the folder it would have replaced alone.
  std::string weights = read_text_file(edited / "model.safetensors");
  weights.back() ^= 1;
  write_file_atomically(edited / "model.safetensors", weights);
  expect_message(
      error_of<InputError>([&] { write_reverted_checkpoint(edited, reverted, OnExistingCheckpoint::replace); }),
      {"was changed after its export"});
  EXPECT_EQ(Checkpoint::open(reverted).weights_sha256(), hash);
}

// Edits of layer 2, exported; then edits of layer 1 of that, exported; and one more in memory.
TEST_F(Rome, CheckpointsKnowWhatTheyWereMadeFrom) {
  const TemporaryDir dir;
  const std::filesystem::path original = dir.path() / "a", second = dir.path() / "b", third = dir.path() / "c",
                              back = dir.path() / "back";
  write_random_checkpoint(context_, model_.config(), original);
  const auto hash_of = [](const std::filesystem::path& folder) { return Checkpoint::open(folder).weights_sha256(); };
  const auto edits_of = [&](int64_t layer) {
    RomeSettings made = settings();
    made.hparams.layer = layer;
    return edits(made, std::span(kRomeRequests).first(1));
  };
  const auto edited = [&](const std::filesystem::path& folder, int64_t layer, EditChain& chain) {
    Model model = Model::load(context_, folder);
    apply_edits(context_, model, file_of("e.h5", EditMode::independent, hash_of(folder), edits_of(layer)), chain);
    return model;
  };
  EditChain to_second, to_third, in_memory;
  const Model b = edited(original, 2, to_second);
  write_edited_checkpoint(context_, b, to_second, second, OnExistingCheckpoint::refuse);
  const Model c = edited(second, 1, to_third);
  write_edited_checkpoint(context_, c, to_third, third, OnExistingCheckpoint::refuse);
  const Model d = edited(third, 3, in_memory);

  const ModelState a_state{hash_of(original), ""}, b_state{hash_of(second), ""}, c_state{hash_of(third), ""};
  const Lineage lineage = in_memory.on(d);
  EXPECT_EQ(lineage.state, (ModelState{c_state.weights_sha256, in_memory.sha256()}));
  const std::vector<Ancestor> expected = {{c_state, {3}},
                                          {{b_state.weights_sha256, to_third.sha256()}, {}},
                                          {b_state, {1}},
                                          {{a_state.weights_sha256, to_second.sha256()}, {}},
                                          {a_state, {2}}};
  EXPECT_EQ(lineage.ancestors, expected);
  EXPECT_EQ(lineage.edited_since(lineage.state), std::set<int64_t>());
  EXPECT_EQ(lineage.edited_since(c_state), (std::set<int64_t>{3}));
  EXPECT_EQ(lineage.edited_since(b_state), (std::set<int64_t>{1, 3}));
  EXPECT_EQ(lineage.edited_since(a_state), (std::set<int64_t>{1, 2, 3}));
  EXPECT_TRUE(lineage.includes(a_state));
  EXPECT_FALSE(lineage.includes({"other", ""}));
  EXPECT_THROW(lineage.edited_since({"other", ""}), Error);

  write_reverted_checkpoint(third, back, OnExistingCheckpoint::refuse);
  EXPECT_EQ(hash_of(back), b_state.weights_sha256);
  EXPECT_EQ(read_lineage(back, b_state.weights_sha256).ancestors, read_lineage(second, hash_of(second)).ancestors);
  // The file speaks of other weights once the model is changed; a damaged file is refused.
  EXPECT_TRUE(read_lineage(third, "other").ancestors.empty());
  write_file_atomically(third / kLineageFile, R"({"weights_sha256": ")" + c_state.weights_sha256 + R"("})");
  expect_message(error_of<InputError>([&] { read_lineage(third, c_state.weights_sha256); }),
                 {kLineageFile, "made_from"});
}

}  // namespace
}  // namespace loci::test
