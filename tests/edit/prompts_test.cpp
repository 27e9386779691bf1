// Hyper-parameters, context templates and prompts of edits: every accepted form, and what is refused.
#include <gtest/gtest.h>

#include "edit/common/context_templates.h"
#include "edit/common/prompts.h"
#include "edit/rome/hparams.h"
#include "runtime/io/atomic_file.h"
#include "runtime/io/settings.h"
#include "tests/edit/support.h"
#include "tests/support/errors.h"
#include "tests/support/page.h"
#include "tests/support/paths.h"

namespace loci::test {
namespace {

TEST(Hparams, ReferenceKeys) {
  const RomeHparams hparams = hparams_from_json(
      Json::parse(R"({"layers": [17], "fact_token": "subject_last", "v_num_grad_steps": 25, "v_lr": 0.1,
                      "v_loss_layer": 47, "v_weight_decay": 0.25, "clamp_norm_factor": 3, "kl_factor": 0.5,
                      "mom2_adjustment": false, "context_template_length_params": [[5, 10], [10, 3]],
                      "mom2_dataset": "wikipedia", "rewrite_module_tmp": "transformer.h.{}.mlp.c_proj"})"),
      "h.json");
  EXPECT_EQ(hparams.layer, 17);
  EXPECT_EQ(hparams.value.steps, 25);
  EXPECT_EQ(hparams.value.learning_rate, 0.1);
  EXPECT_EQ(hparams.value.weight_decay, 0.25);
  EXPECT_EQ(hparams.value.clamp_factor, 3);
  EXPECT_EQ(hparams.value.kl_factor, 0.5);
  EXPECT_FALSE(hparams.uses_second_moment);
  ASSERT_EQ(hparams.samples.size(), 2u);
  EXPECT_EQ(hparams.samples[1].length, 10);
  EXPECT_EQ(hparams.samples[1].count, 3);
  EXPECT_EQ(hparams.without_effect, (std::vector<std::string>{"v_loss_layer", "mom2_dataset", "rewrite_module_tmp"}));
  EXPECT_EQ(hparams_from_json(hparams_to_json(hparams), "again").value.steps, 25);
}

// The keys that the published files of r-ROME and of EasyEdit (converted to JSON) hold beside the reference's.
TEST(Hparams, WhatIsSwitchedOffIsPassedOver) {
  const RomeHparams r_rome = hparams_from_json(
      Json::parse(R"({"layers": [17], "bias_update": false, "dynamic": false, "dropout": 0, "schedule": null,
                      "regulariser": "none", "extra_layers": [], "options": {}, "original_implementation": false,
                      "enable_random_prefix_keys": true, "enable_prompt_keys": false})"),
      "h.json");
  EXPECT_EQ(r_rome.method, "r-rome");
  EXPECT_EQ(r_rome.without_effect, (std::vector<std::string>{"bias_update", "dropout", "dynamic", "extra_layers",
                                                             "options", "regulariser", "schedule"}));
  const RomeHparams easy_edit = hparams_from_json(
      Json::parse(R"({"alg_name": "ROME", "model_name": "./hugging_cache/gpt2-xl", "stats_dir": "./data/stats",
                      "device": 0, "layers": [17], "fact_token": "subject_last", "v_num_grad_steps": 20, "v_lr": 5e-1,
                      "v_loss_layer": 47, "v_weight_decay": 0.5, "clamp_norm_factor": 4, "kl_factor": 0.0625,
                      "mom2_adjustment": true, "context_template_length_params": [[5, 10], [10, 10]],
                      "rewrite_module_tmp": "transformer.h.{}.mlp.c_proj", "layer_module_tmp": "transformer.h.{}",
                      "mlp_module_tmp": "transformer.h.{}.mlp", "attn_module_tmp": "transformer.h.{}.attn",
                      "ln_f_module": "transformer.ln_f", "lm_head_module": "transformer.wte",
                      "mom2_dataset": "wikipedia", "mom2_n_samples": 100000, "mom2_dtype": "float32",
                      "batch_size": 1, "max_length": 40, "model_parallel": true, "fp16": false})"),
      "h.json");
  EXPECT_EQ(easy_edit.layer, 17);
  EXPECT_EQ(easy_edit.method, "rome");
  const auto method = [](const char* text) { return hparams_from_json(Json::parse(text), "h.json").method; };
  EXPECT_EQ(method(R"({"original_implementation": true, "enable_random_prefix_keys": true})"), "rome");
  EXPECT_EQ(method(R"({"enable_prompt_keys": true})"), "p-rome");
  EXPECT_EQ(method(R"({"alg_name": "R-ROME"})"), "r-rome");
  EXPECT_EQ(method(R"({"layers": [1]})"), std::nullopt);
}

TEST(Hparams, StoredFormStays) {
  EXPECT_EQ(hparams_to_json(hparams_from_json(Json{{"layers", {17}}}, "h.json")).dump(),
            R"({"clamp_norm_factor":4.0,"context_template_length_params":[[5,10],[10,10]],"fact_token":"subject_last",)"
            R"("kl_factor":0.0625,"layers":[17],"mom2_adjustment":true,"v_lr":0.5,"v_num_grad_steps":20,)"
            R"("v_weight_decay":0.5})");
}

TEST(Hparams, PageTellsEveryKey) {
  RomeHparams hparams;
  expect_in_page("file_formats.md", settings_table(fields_of(hparams)));
}

TEST(Hparams, BadInputIsRefusedInOneSentence) {
  const std::vector<std::pair<std::string, std::vector<std::string>>> cases = {
      {"[]", {"h.json", "object"}},
      {R"({"v_learning_rate": 1})", {"v_learning_rate"}},
      {R"({"bias_update": true})", {"\"bias_update\"", "true", "set it to false"}},
      {R"({"fp16": true})", {"\"fp16\""}},
      {R"({"dynamic": "yes"})", {"\"dynamic\"", "yes"}},
      {R"({"mom2_update_weight": 15000})", {"\"mom2_update_weight\"", "15000"}},
      {R"({"v_weigth_decay": 0})", {"\"v_weigth_decay\"", "did you mean \"v_weight_decay\""}},
      {R"({"mom2_adjustement": false})", {"did you mean \"mom2_adjustment\""}},
      {R"({"alg_name": "MEMIT"})", {"\"alg_name\"", "MEMIT"}},
      {R"({"layers": 3})", {"\"layers\""}},
      {R"({"layers": []})", {"\"layers\"", "exactly one", "got 0"}},
      {R"({"layers": [3, 4]})", {"\"layers\"", "exactly one", "got 2"}},
      {R"({"layers": [-1]})", {"\"layers\""}},
      {R"({"layers": [1.5]})", {"\"layers\""}},
      {R"({"fact_token": "subject"})", {"\"fact_token\"", "subject_last"}},
      {R"({"v_num_grad_steps": 0})", {"\"v_num_grad_steps\""}},
      {R"({"v_num_grad_steps": 2.5})", {"\"v_num_grad_steps\""}},
      {R"({"v_lr": "0.5"})", {"\"v_lr\""}},
      {R"({"v_lr": -1})", {"\"v_lr\""}},
      {R"({"clamp_norm_factor": -4})", {"\"clamp_norm_factor\""}},
      {R"({"mom2_adjustment": 1})", {"\"mom2_adjustment\""}},
      {R"({"context_template_length_params": [5, 10]})", {"context_template_length_params", "pairs"}},
      {R"({"context_template_length_params": [[5]]})", {"context_template_length_params", "pairs"}},
      {R"({"context_template_length_params": [[1, 10]]})", {"context_template_length_params", "length"}},
  };
  for (const auto& [text, parts] : cases) {
    SCOPED_TRACE(text);
    expect_message(error_of<InputError>([&text = text] { hparams_from_json(Json::parse(text), "h.json"); }), parts);
  }
}

TEST(ContextTemplates, FileIsChecked) {
  const TemporaryDir dir;
  const auto read = [&](const std::string& text) {
    write_file_atomically(dir.file("t.json"), text);
    return read_context_templates(dir.file("t.json"));
  };
  EXPECT_EQ(read(R"(["{}", "Yes. {}"])"), (std::vector<std::string>{"{}", "Yes. {}"}));
  EXPECT_EQ(read(R"(["{} ", " a\u00a0{}\n"])"), (std::vector<std::string>{"{}", " a\u00a0{}"}));
  expect_message(error_of<InputError>([&] { read("[]"); }), {"t.json", "empty"});
  expect_message(error_of<InputError>([&] { read("{}"); }), {"t.json", "list"});
  expect_message(error_of<InputError>([&] { read(R"(["{}", 3])"); }), {"t.json", "template 1"});
  expect_message(error_of<InputError>([&] { read(R"(["{}", "no"])"); }), {"t.json", "template 1", "got 0"});
  expect_message(error_of<InputError>([&] { read(R"(["{} {}"])"); }), {"t.json", "template 0", "got 2"});
}

TEST(ContextTemplates, SampledOnesDependOnTheSeedAlone) {
  Context context;
  Architecture config = byte_config();
  config.bos_token = 10;
  const Model model = random_model(context, config, 1);
  Executor executor(context, model);
  const Tokenizer tokenizer = byte_tokenizer();
  const std::vector<TemplateSample> samples = {{5, 3}, {10, 2}};
  const auto first = sample_context_templates(executor, tokenizer, samples, 1);
  EXPECT_EQ(first, sample_context_templates(executor, tokenizer, samples, 1));
  EXPECT_NE(first, sample_context_templates(executor, tokenizer, samples, 2));
  ASSERT_EQ(first.size(), 6u);
  EXPECT_EQ(first[0], "{}");
  check_context_templates(first, "sampled");
}

/// Bytes are tokens, so positions can be counted.
PreparedRequest prepare(const EditRequest& request, std::vector<std::string> templates,
                        FactToken token = FactToken::subject_last) {
  return prepare_request(request, templates, token, TeacherForcing::tokens, byte_tokenizer(), byte_config(), "case");
}

TEST(EditPrompts, PositionsOfTheFactTokenAndTheTarget) {
  const PreparedRequest made = prepare({0, "Of {}, the", "Rome", "ab", ""}, {"{}", "x. {}", "x. {}"});
  EXPECT_EQ(made.target, (std::vector<int32_t>{' ', 'a', 'b'}));
  ASSERT_EQ(made.prompts.size(), 2u);
  EXPECT_EQ(made.total_weight, 3);
  EXPECT_EQ(made.initial, 0u);
  const EditPrompt& bare = made.prompts[0];
  EXPECT_EQ(bare.tokens.size(), std::string("Of Rome, the a").size());
  EXPECT_EQ(bare.lookup, 6);
  EXPECT_EQ(bare.first_target, 11);
  EXPECT_EQ(bare.weight, 1);
  const EditPrompt& other = made.prompts[1];
  EXPECT_EQ(other.lookup, 9);
  EXPECT_EQ(other.first_target, 14);
  EXPECT_EQ(other.weight, 2);
  EXPECT_EQ(made.essence.tokens, (std::vector<int32_t>{'R', 'o', 'm', 'e'}));
  EXPECT_EQ(made.essence.lookup, 3);
}

TEST(EditPrompts, EveryFactToken) {
  const EditRequest request{0, "Of {}, the", "Rome", "a", ""};
  EXPECT_EQ(prepare(request, {"{}"}, FactToken::subject_first).prompts[0].lookup, 3);
  EXPECT_EQ(prepare(request, {"{}"}, FactToken::subject_first_after_last).prompts[0].lookup, 7);
  EXPECT_EQ(prepare(request, {"{}"}, FactToken::last).prompts[0].lookup, 11 - 0);
  const EditRequest ends{0, "Of {}", "Rome", "a", ""};
  EXPECT_EQ(prepare(ends, {"{}"}, FactToken::subject_first_after_last).prompts[0].lookup, 6);
}

TEST(EditPrompts, OddSubjectsAndTemplates) {
  // One token at the start, at the end, several bytes, white space at its ends.
  EXPECT_EQ(prepare({0, "{}", "R", "a", ""}, {"{}"}).prompts[0].lookup, 0);
  EXPECT_EQ(prepare({0, "{}", "R", "a", ""}, {"{}"}).prompts[0].first_target, 0);
  EXPECT_EQ(prepare({0, "in {}", "é", "a", ""}, {"{}"}).prompts[0].lookup, 4);
  EXPECT_EQ(prepare({0, "in {} is", "Rome ", "a", ""}, {"{}"}).prompts[0].lookup, 6);
  // Without `{}` among the templates the bare prompt gives its key only.
  const PreparedRequest made = prepare({0, "{} is", "Rome", "a", ""}, {"x. {}"});
  EXPECT_EQ(made.prompts[0].weight, 0);
  EXPECT_EQ(made.initial, 1u);
  expect_message(error_of<InputError>([] {
                   prepare({0, "{} is", "Rome", "a", ""}, {std::string(60, 'x') + "{}"});
                 }),
                 {"case", "context template", "reads 64"});
}

}  // namespace
}  // namespace loci::test
