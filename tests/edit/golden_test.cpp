// Keys, directions, values, updates, loss curves and second moments against the reference's own outputs.
#include <gtest/gtest.h>

#include "edit/common/context_templates.h"
#include "edit/moments/second_moments.h"
#include "edit/rome/rome.h"
#include "model/text/document_source.h"
#include "runtime/io/npz.h"
#include "tests/edit/support.h"
#include "tests/support/compare.h"
#include "tests/support/golden_model.h"

namespace loci::test {
namespace {

class GoldenEdit : public GoldenModelTest {
 protected:
  RomeSettings settings() {
    RomeSettings made;
    made.hparams = read_hparams(golden_ / "edit" / "hparams.json");
    made.templates = read_context_templates(golden_ / "edit" / "context_templates.json");
    made.forcing = TeacherForcing::text;
    const int64_t layer = made.hparams.layer;
    const auto file = golden_ / "cov" / fmt::format("transformer.h.{}.mlp.c_proj_float32_mom2.npz", layer);
    made.second_moment =
        factor_second_moment(*context_, read_second_moment(file, layer, model_->config().mlp_width, {}), 0, "C");
    return made;
  }
  std::vector<float> golden_vector(int64_t case_id, const std::string& name) {
    const auto path = golden_ / "edit" / fmt::format("case_{}.npz", case_id);
    return npz_at(read_npz(path), name, path).as<float>();
  }
};

// Two fp32 passes that sum in another order: three blocks of 96- and 384-term products, a few units of rounding each.
constexpr double kForward = 64 * kEps;
// What the reference moves by when its own attention runs on another kernel and C is inverted in fp64 (README of the
// goldens): 1 - cosine 2e-7, norm of the update 8e-5. Its printed losses are rounded to 3 decimals.
constexpr double kCosine = 5e-7;
constexpr double kUpdate = 4e-4;
constexpr double kPrinted = 0.5e-3;

TEST_F(GoldenEdit, EveryStageOfEveryCase) {
  const auto requests =
      read_requests(golden_ / "eval" / "counterfact_records.json", *tokenizer_, model_->config(), OnInvalid::refuse)
          .requests;
  const Json results = parse_json_file(golden_ / "eval" / "counterfact_results.json");
  const std::vector<RankOneEdit> edits = compute_edits(*executor_, *tokenizer_, settings(), requests);
  ASSERT_EQ(edits.size(), results.size());
  size_t compared = 0;
  for (size_t i = 0; i < edits.size(); ++i) {
    const RankOneEdit& edit = edits[i];
    SCOPED_TRACE(edit.request.case_id);
    const double update = norm(edit.u) * norm(edit.v);
    EXPECT_NEAR(update / results[i]["update_norm"].get<double>(), 1, kUpdate);
    const Json& curve = results[i]["loss_curve"];
    ASSERT_EQ(edit.loss_curve.size(), curve.size());
    for (size_t s = 0; s < curve.size(); ++s) {
      const LossRow& row = edit.loss_curve[s];
      // Rounding grows over the steps; 30 of them move a loss by less than its printed digit.
      EXPECT_NEAR(row.total, curve[s][0].get<double>(), 2 * kPrinted) << s;
      EXPECT_NEAR(row.target, curve[s][1].get<double>(), 2 * kPrinted) << s;
      EXPECT_NEAR(row.essence, curve[s][2].get<double>(), 2 * kPrinted) << s;
      EXPECT_NEAR(row.decay, curve[s][3].get<double>(), 2 * kPrinted) << s;
      EXPECT_NEAR(row.probability, curve[s][4].get<double>(), 1e-4) << s;
    }
    if (!std::filesystem::exists(golden_ / "edit" / fmt::format("case_{}.npz", edit.request.case_id))) continue;
    ++compared;
    const int64_t id = edit.request.case_id;
    EXPECT_LE(relative_error(edit.k_mean, golden_vector(id, "k_mean")), kForward);
    EXPECT_LE(relative_error(edit.k_bare, golden_vector(id, "k_bare")), kForward);
    EXPECT_LE(relative_error(edit.value_before, golden_vector(id, "value_before")), kForward);
    EXPECT_GE(cosine(edit.u, golden_vector(id, "u")), 1 - kCosine);
    EXPECT_GE(cosine(edit.value_star, golden_vector(id, "value_star")), 1 - kCosine);
    EXPECT_GE(cosine(edit.v, golden_vector(id, "v")), 1 - 4 * kCosine);
  }
  EXPECT_EQ(compared, 20u);
}

TEST_F(GoldenEdit, SecondMoments) {
  SecondMomentCollector collector(*executor_, {0, 1, 2, 3, 4, 5});
  std::vector<std::string> skipped;
  const NextDocument next =
      text_documents(*context_, *tokenizer_, golden_ / "documents.jsonl", OnInvalid::refuse, skipped);
  std::vector<std::vector<int32_t>> documents;
  for (std::vector<int32_t> document; next(document);) {
    document.resize(std::min(document.size(), static_cast<size_t>(model_->config().positions)));
    if (!document.empty()) documents.push_back(document);
  }
  collector.add(documents);
  const auto n = static_cast<size_t>(model_->config().mlp_width);
  for (int64_t layer = 0; layer < 6; ++layer) {
    SCOPED_TRACE(layer);
    const auto path = golden_ / "cov" / fmt::format("transformer.h.{}.mlp.c_proj_float64.npz", layer);
    const auto arrays = read_npz(path);
    EXPECT_EQ(collector.tokens(), npz_at(arrays, "count", path).scalar<int64_t>());
    std::vector<double> mean = collector.sum(static_cast<size_t>(layer));
    double trace = 0;
    for (double& value : mean) value /= static_cast<double>(collector.tokens());
    for (size_t i = 0; i < n; ++i) trace += mean[i * n + i];
    EXPECT_NEAR(trace / npz_at(arrays, "trace", path).scalar<double>(), 1, kForward);
    // The 1-norm condition number is within a factor of n of the 2-norm one.
    const double condition = npz_at(arrays, "cond", path).scalar<double>();
    const double estimate = condition_number(*context_, mean, static_cast<int64_t>(n));
    EXPECT_GE(estimate, condition / static_cast<double>(n));
    EXPECT_LE(estimate, condition * static_cast<double>(n));
    const std::vector<double> expected = npz_at(arrays, "mom2", path).as<double>();
    if (expected.empty()) continue;
    EXPECT_TRUE(near_by(std::span<const double>(mean), std::span<const double>(expected), [&](size_t i) {
      return kForward * std::sqrt(expected[i / n * n + i / n] * expected[i % n * n + i % n]);
    }));
  }
}

}  // namespace
}  // namespace loci::test
