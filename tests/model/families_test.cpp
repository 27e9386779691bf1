// The families beside GPT-2: their models in lanes and branches, their files, their fields.
#include <gtest/gtest.h>

#include <map>

#include "model/executor/executor.h"
#include "runtime/io/atomic_file.h"
#include "tests/support/device.h"
#include "tests/support/errors.h"
#include "tests/support/family_models.h"
#include "tests/support/paths.h"
#include "tests/support/plain_gpt.h"
#include "tests/support/tiny_model.h"

namespace loci::test {

void PrintTo(const FamilyCase& value, std::ostream* out) { *out << value.name; }

namespace {

class Families : public ::testing::TestWithParam<FamilyCase> {
 protected:
  void SetUp() override {
    if (!products_are_fp32()) GTEST_SKIP() << kFp32Only;
  }
  std::vector<float> run(const Plan& plan, const Model& model) {
    return Executor(context_, model).run(plan).logits.to_host();
  }
  Plan whole(const std::vector<int32_t>& tokens) const {
    Plan plan;
    plan.sequences.emplace_back().tokens = tokens;
    plan.wanted = {{0, std::ssize(tokens) - 1}};
    return plan;
  }
  RecordingPtr recorded(const std::vector<int32_t>& tokens, const std::vector<Site>& sites = {}) {
    Plan plan = whole(tokens);
    plan.sequences[0].record = true;
    for (int64_t layer = 0; layer < config_.layers; ++layer)
      for (const Site site : sites) plan.recorded.push_back({site, layer});
    return Executor(context_, model_).run(plan).recordings[0];
  }
  Sequence lane(const RecordingPtr& base, int64_t first_layer, int64_t first_position, int64_t end) const {
    return {.tokens = {},
            .rows = end - first_position,
            .first_position = first_position,
            .first_layer = first_layer,
            .base = base};
  }

  Context context_{device_options(2)};
  Architecture config_ = GetParam().config;
  Model model_ = random_model(context_, config_, 7);
};

TEST_P(Families, AContinuationEqualsTheWholeSequence) {
  const auto tokens = random_tokens(15, config_.vocabulary, 4);
  const auto base = recorded({tokens.begin(), tokens.begin() + 9});
  for (const int64_t first : {2, 9}) {
    Plan plan;
    Sequence& sequence = plan.sequences.emplace_back(lane(base, 0, first, 15));
    sequence.tokens.assign(tokens.begin() + first, tokens.end());
    plan.wanted = {{0, 14}};
    EXPECT_TRUE(near(run(plan, model_), run(whole(tokens), model_), 3e-5));
  }
}

/// Rows of a lane that nothing changes reuse what their base recorded; the others are computed. All three ways of
/// looking at queries, keys and values: not at all, with a tap, and with a patch.
TEST_P(Families, LanesEqualPatchedWholeRuns) {
  const auto tokens = random_tokens(14, config_.vocabulary, 5);
  const auto base = recorded(tokens), other = recorded(random_tokens(14, config_.vocabulary, 6), {Site::qkv});
  Tensor tapped(context_, 2, config_.qkv_width());
  for (int64_t layer = 0; layer + 1 < config_.layers; ++layer)
    for (const int64_t position : on_emulated_device() ? std::vector<int64_t>{3} : std::vector<int64_t>{0, 3, 12})
      for (const int look : {0, 1, 2}) {
        SCOPED_TRACE(fmt::format("layer {}, position {}, look {}", layer, position, look));
        Plan patched = whole(tokens), lanes;
        lanes.sequences = {lane(base, layer + 1, position, 14)};
        lanes.wanted = {{0, 13}};
        for (Plan* plan : {&patched, &lanes}) {
          plan->patches = {
              {0, position, Site::resid, layer, PatchMode::replace, other->row(Site::resid, layer, position)}};
          if (look == 1) {
            plan->taps = {{0, 13, Site::qkv, layer + 1, plan == &lanes ? 0 : 1}};
            plan->tap_output = tapped.view();
          }
          if (look == 2)
            plan->patches.push_back(
                {0, 13, Site::qkv, layer + 1, PatchMode::replace, other->row(Site::qkv, layer + 1, 4)});
        }
        const auto expected = run(patched, model_);
        EXPECT_TRUE(near(run(lanes, model_), expected, 3e-5));
        if (look == 1) {
          EXPECT_TRUE(
              near(to_host(context_, tapped.rows_slice(0, 1)), to_host(context_, tapped.rows_slice(1, 1)), 3e-5));
        }
      }
}

/// resid = resid before + attn_out + mlp_out in every block: the two outputs are what is added to the stream.
TEST_P(Families, AttentionAndMlpOutputsAddUpToTheStream) {
  const auto tokens = random_tokens(11, config_.vocabulary, 8);
  const auto base = recorded(tokens, {Site::attn_out, Site::mlp_out});
  for (int64_t layer = 0; layer < config_.layers; ++layer) {
    const auto row = [&](Site site, int64_t at) { return base->row(site, at, 10); };
    Plan rebuilt = whole(tokens);
    rebuilt.patches = {{0, 10, Site::resid, layer, PatchMode::replace, row(Site::resid, layer - 1)},
                       {0, 10, Site::resid, layer, PatchMode::add, row(Site::attn_out, layer)},
                       {0, 10, Site::resid, layer, PatchMode::add, row(Site::mlp_out, layer)}};
    EXPECT_TRUE(near(run(rebuilt, model_), run(whole(tokens), model_), 3e-5));
  }
}

/// A branch between the two sites of a projection is a change of its matrix.
TEST_P(Families, BranchesEqualEditedWeights) {
  struct EditedProjection {
    Role role;
    Site from, to;
  };
  const Role pre = config_.mlp == Mlp::gated ? Role::gate_weight : Role::up_weight;
  const auto tokens = random_tokens(12, config_.vocabulary, 9);
  for (const EditedProjection& p : {EditedProjection{Role::qkv_weight, Site::attn_in, Site::qkv},
                              {Role::out_weight, Site::attn_heads, Site::attn_out},
                              {pre, Site::mlp_in, Site::mlp_pre},
                              {Role::down_weight, Site::mlp_key, Site::mlp_out}}) {
    SCOPED_TRACE(static_cast<int>(p.role));
    const int64_t in = site_width(config_, p.from), out = site_width(config_, p.to);
    std::vector<float> k(static_cast<size_t>(in)), v(static_cast<size_t>(out));
    for (size_t i = 0; i < k.size(); ++i) k[i] = 0.1f * static_cast<float>(i % 5) - 0.2f;
    for (size_t i = 0; i < v.size(); ++i) v[i] = 0.15f * static_cast<float>(i % 7) - 0.4f;
    const Tensor keys = Tensor::from_host(context_, k, in, 1), values = Tensor::from_host(context_, v, 1, out);
    Plan plan = whole(tokens);
    plan.branches.push_back(
        {.sequence = 0, .layer = 1, .keys = keys.view(), .values = values.view(), .from = p.from, .to = p.to});
    Model edited = model_;
    edited.add_low_rank(context_, {p.role, 1}, 1, k, v);
    const auto expected = run(whole(tokens), edited);
    EXPECT_TRUE(near(run(plan, model_), expected, 3e-5));
    EXPECT_FALSE(near(expected, run(whole(tokens), model_), 1e-3));
    // The same from a base that is not edited.
    Plan lanes;
    lanes.sequences = {lane(recorded(tokens), 1, 0, 12)};
    lanes.branches = plan.branches;
    lanes.wanted = {{0, 11}};
    EXPECT_TRUE(near(run(lanes, model_), expected, 3e-5));
  }
}

/// Written, read again, and the same model: in every stored type, and with the tensors that the family's files hold.
TEST_P(Families, CheckpointsComeBack) {
  Parameters<const float> places = model_.parameters();
  std::map<std::string, std::vector<float>> values;
  std::map<std::string, std::span<const float>> spans;
  visit_parameters(places, config_, [&](const Parameter& parameter, const auto& place) {
    spans[parameter.name] = values[parameter.name] = stored_to_host(context_, stored_view(place));
  });
  const TemporaryDir dir;
  config_.bos_token = 3;
  config_.eos_tokens = {5, 6};
  for (const DType type : {DType::f32, DType::f16, DType::bf16}) {
    const auto folder = dir.path() / std::string(dtype_name(type));
    write_checkpoint(folder, config_, spans, {}, type);
    const Model loaded = Model::load(context_, folder);
    EXPECT_EQ(loaded.config(), config_);
    EXPECT_TRUE(loaded.checkpoint().warnings().empty());
    const auto tokens = random_tokens(10, config_.vocabulary, 3);
    if (type == DType::f32) {
      EXPECT_EQ(run(whole(tokens), loaded), run(whole(tokens), model_));
      EXPECT_EQ(loaded.checkpoint().weights_sha256(), weights_sha256_of(config_, spans, folder));
    }
    const WeightView qkv = loaded.parameters().blocks[1].qkv_weight;
    EXPECT_EQ(qkv.type, type == DType::f32   ? StoredType::fp32
                        : type == DType::f16 ? StoredType::fp16
                                             : StoredType::bf16);
    const auto expected = PlainGpt(context_, loaded).logits(tokens).back();
    EXPECT_TRUE(near(run(whole(tokens), loaded), expected, 3e-5));
  }
}

/// Queries, keys and values in the file of a family: rows that say where they came from.
TEST_P(Families, QueriesKeysAndValuesLieAsTheFamilyStoresThem) {
  const Parameter qkv = parameter_at(config_, {Role::qkv_weight, 1});
  const Packed packed = packed_of(config_, qkv);
  std::vector<float> values(static_cast<size_t>(qkv.rows() * qkv.cols()));
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i / static_cast<size_t>(qkv.cols()));
  const auto tensors = pack(packed, sizeof(float), std::as_bytes(std::span(values)));
  std::vector<std::vector<float>> rows;
  for (const auto& bytes : tensors) {
    std::vector<float>& list = rows.emplace_back();
    for (size_t at = 0; at < bytes.size(); at += sizeof(float) * static_cast<size_t>(qkv.cols()))
      list.push_back(*reinterpret_cast<const float*>(bytes.data() + at));
  }
  const auto q = static_cast<float>(config_.query_width()), k = static_cast<float>(config_.key_width());
  if (qkv.packing == Packing::apart) {
    ASSERT_EQ(rows.size(), 3u);
    EXPECT_EQ(rows[0].front(), 0);
    EXPECT_EQ(rows[1].front(), q);
    EXPECT_EQ(rows[2].back(), q + 2 * k - 1);
    EXPECT_TRUE(packed.tensors[0].name.ends_with("attn.q_proj.weight")) << packed.tensors[0].name;
    EXPECT_TRUE(packed.tensors[2].name.ends_with("attn.v_proj.weight")) << packed.tensors[2].name;
  } else {
    // Three heads of 7: the second head's query, key and value follow those of the first.
    ASSERT_EQ(rows.size(), 1u);
    EXPECT_EQ(rows[0][6], 6);
    EXPECT_EQ(rows[0][7], 21);
    EXPECT_EQ(rows[0][14], 42);
    EXPECT_EQ(rows[0][21], 7);
    EXPECT_EQ(rows[0][28], 28);
  }
  std::vector<std::span<const std::byte>> parts(tensors.begin(), tensors.end());
  const auto back = unpack(packed, sizeof(float), parts);
  EXPECT_TRUE(std::ranges::equal(back, std::as_bytes(std::span(values))));
}

INSTANTIATE_TEST_SUITE_P(All, Families, ::testing::ValuesIn(family_cases()),
                         [](const auto& test) { return std::string(test.param.name); });

// --- Frequencies -----------------------------------------------------------------------------------------------------

std::vector<double> frequencies_of(const Rotary& rotary) {
  const std::vector<float> values = rotary_frequencies(rotary);
  return {values.begin(), values.end()};
}

TEST(Rotations, FrequenciesFollowThePublishedFormulas) {
  EXPECT_TRUE(near_relative(frequencies_of({.width = 8}), std::vector<double>{1, 0.1, 0.01, 0.001}, 2e-7));
  EXPECT_TRUE(near_relative(frequencies_of({.width = 4, .scaling = RotaryScaling::linear, .factor = 4}),
                            std::vector<double>{0.25, 0.0025}, 2e-7));
  // From the formulas in transformers 4.51, in NumPy.
  EXPECT_TRUE(near_relative(
      frequencies_of({.width = 16, .scaling = RotaryScaling::llama3, .factor = 8, .original_positions = 64}),
      std::vector<double>{1.0, 0.244384596, 0.0130422567, 0.00395284733, 0.00124999997, 0.000395284733, 0.000125000006,
                          3.95284733e-05},
      5e-7));
  EXPECT_TRUE(near_relative(
      frequencies_of({.width = 16, .scaling = RotaryScaling::yarn, .factor = 4, .original_positions = 64}),
      std::vector<double>{1.0, 0.237170823, 0.0500000007, 0.00790569466, 0.00249999994, 0.000790569466, 0.000250000012,
                          7.90569466e-05},
      5e-7));
}

TEST(Rotations, TablesRoundAnglesToFp32) {
  Context context(device_options());
  const RotaryTables tables(context, {.width = 4, .base = 100, .attention_factor = 2}, 1001);
  const std::vector<float> cosines = tables.cosines.to_host(), sines = tables.sines.to_host();
  EXPECT_EQ(cosines[0], 2.0f);
  EXPECT_EQ(sines[0], 0.0f);
  EXPECT_NEAR(cosines[2 * 1000], 2 * std::cos(1000.0), 3e-7);
  const float angle = 1000 * 0.1f;
  EXPECT_NEAR(sines[2 * 1000 + 1], 2 * std::sin(static_cast<double>(angle)), 3e-7);
}

// --- Fields of config.json -------------------------------------------------------------------------------------------

Json config_of(const char* name) {
  for (const FamilyCase& family : family_cases())
    if (family.name == std::string_view(name)) return architecture_to_json(family.config);
  ADD_FAILURE() << name;
  return {};
}

TEST(FamilyFields, WhatChangesNumbersIsRefusedByName) {
  struct Case {
    const char* family;
    const char* field;
    Json value;
    const char* cause;
  };
  const Json rope = {{"rope_type", "longrope"}, {"factor", 2.0}};
  const Json mscale = {{"rope_type", "yarn"}, {"factor", 2.0}, {"mscale", 1.0}};
  const Json llama3 = {{"rope_type", "llama3"}, {"factor", 2.0}};
  const Json contradiction = {{"rope_type", "linear"}, {"type", "yarn"}, {"factor", 2.0}};
  for (const Case& c : {Case{"llama3", "final_logit_softcapping", 30.0, "final_logit_softcapping"},
                        Case{"llama3", "quantization_config", Json::object(), "quantization_config"},
                        Case{"llama3", "rope_scaling", rope, "longrope"},
                        Case{"llama3", "rope_scaling", mscale, "mscale"},
                        Case{"llama3", "rope_scaling", llama3, "low_freq_factor"},
                        Case{"llama3", "rope_scaling", contradiction, "other name"},
                        Case{"llama3", "hidden_act", "mish", "hidden_act"},
                        Case{"llama3", "num_key_value_heads", 4, "num_key_value_heads"},
                        Case{"llama3", "head_dim", 7, "pairs"},
                        Case{"llama3", "partial_rotary_factor", 0.5, "partial_rotary_factor"},
                        Case{"llama3", "rms_norm_eps", 0.0, "rms_norm_eps"},
                        Case{"llama3", "bos_token_id", 47, "vocab_size"},
                        Case{"llama3", "layer_types", {"full_attention", "sliding_attention"}, "sliding_attention"},
                        Case{"qwen2", "use_sliding_window", true, "use_sliding_window"},
                        Case{"qwen3", "use_sliding_window", true, "use_sliding_window"},
                        Case{"gptj", "rotary_dim", 5, "rotary_dim"},
                        Case{"gptj", "rotary_dim", 10, "rotary_dim"},
                        Case{"gptj", "scale_attn_weights", false, "scale_attn_weights"},
                        Case{"gptj", "n_head", 5, "n_head"},
                        Case{"gpt_neox", "rotary_pct", 0.45, "pairs"},
                        Case{"gpt_neox", "rotary_pct", 1.5, "rotary_pct"},
                        Case{"gpt_neox", "hidden_size", 22, "hidden_size"},
                        Case{"mistral_window", "sliding_window", 0, "sliding_window"}}) {
    Json json = config_of(c.family);
    json[c.field] = c.value;
    SCOPED_TRACE(fmt::format("{} {}", c.family, c.field));
    expect_message(error_of<InputError>([&] { architecture_from_json(json, "c.json"); }), {"c.json: ", c.cause});
  }
}

TEST(FamilyFields, DefaultsAndOtherFormsAreThoseOfTransformers) {
  Json json = config_of("mistral_window");
  json["max_position_embeddings"] = 8192;
  json.erase("sliding_window");
  EXPECT_EQ(architecture_from_json(json, "c").window, 4096);
  json["sliding_window"] = nullptr;
  EXPECT_EQ(architecture_from_json(json, "c").window, 0);
  json["sliding_window"] = 8192;
  EXPECT_EQ(architecture_from_json(json, "c").window, 0);

  json = config_of("llama3");
  const Architecture nested = [&] {
    Json newer = json;
    newer["rope_parameters"] = newer["rope_scaling"];
    newer["rope_parameters"]["rope_theta"] = newer["rope_theta"];
    newer.erase("rope_scaling");
    newer.erase("rope_theta");
    return architecture_from_json(newer, "c");
  }();
  EXPECT_EQ(nested, architecture_from_json(json, "c"));
  json["rope_scaling"] = {{"type", "dynamic"}, {"factor", 2.0}};
  json["surprise"] = 1;
  std::vector<std::string> notes;
  EXPECT_EQ(architecture_from_json(json, "c", &notes).rotary->scaling, RotaryScaling::none);
  ASSERT_EQ(notes.size(), 2u);
  expect_message(notes[0], {"surprise"});
  expect_message(notes[1], {"dynamic", "24"});

  json = config_of("qwen3");
  json.erase("head_dim");
  EXPECT_EQ(architecture_from_json(json, "c").head_width, 128);
  json = config_of("gpt_neox");
  json.erase("rotary_pct");
  json["partial_rotary_factor"] = 0.6;
  EXPECT_EQ(architecture_from_json(json, "c").rotary->width, 4);
}

/// A bias that config.json does not announce would change the numbers if it were passed over.
TEST(FamilyFields, TensorsThatNoFieldExplainsAreRefused) {
  Context context(device_options());
  const TemporaryDir dir;
  Architecture config;
  for (const FamilyCase& family : family_cases())
    if (family.name == std::string_view("llama_biased")) config = family.config;
  const Model model = random_model(context, config, 3);
  Parameters<const float> places = model.parameters();
  std::map<std::string, std::vector<float>> values;
  std::map<std::string, std::span<const float>> spans;
  visit_parameters(places, config, [&](const Parameter& parameter, const auto& place) {
    spans[parameter.name] = values[parameter.name] = stored_to_host(context, stored_view(place));
  });
  write_checkpoint(dir.path(), config, spans);
  Json json = architecture_to_json(config);
  json["mlp_bias"] = false;
  write_file_atomically(dir.path() / "config.json", json.dump());
  expect_message(error_of<InputError>([&] { Checkpoint::open(dir.path()); }), {"_proj.bias", "config.json"});
}

}  // namespace
}  // namespace loci::test
