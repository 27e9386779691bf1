#include "model/families/families.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <ostream>

#include "runtime/io/atomic_file.h"
#include "tests/support/errors.h"
#include "tests/support/paths.h"

namespace loci {
namespace {

using test::error_of;
using test::expect_message;
using test::TemporaryDir;

Json good_config() {
  return {{"model_type", "gpt2"}, {"n_layer", 6},        {"n_embd", 96},       {"n_head", 4},
          {"n_positions", 160},   {"vocab_size", 50257}, {"n_inner", nullptr}, {"activation_function", "gelu_new"}};
}

TEST(Architecture, ReadsHuggingFaceFields) {
  const Architecture config = architecture_from_json(good_config(), "c");
  EXPECT_EQ(config.layers, 6);
  EXPECT_EQ(config.width, 96);
  EXPECT_EQ(config.heads, 4);
  EXPECT_EQ(config.head_width, 24);
  EXPECT_EQ(config.positions, 160);
  EXPECT_EQ(config.vocabulary, 50257);
  EXPECT_EQ(config.mlp_width, 384);
  EXPECT_EQ(config.epsilon, 1e-5);
  EXPECT_EQ(config.activation, Activation::gelu_new);
  EXPECT_TRUE(config.tied);
  EXPECT_EQ(config.attention_factor(3), 1.0 / std::sqrt(24.0));
  EXPECT_EQ(config.bos_token, -1);
}

TEST(Architecture, ReadsTheOtherNamesAndOptions) {
  const Json json = {{"num_hidden_layers", 2},
                     {"hidden_size", 32},
                     {"num_attention_heads", 4},
                     {"max_position_embeddings", 64},
                     {"n_ctx", 64},
                     {"vocab_size", 100},
                     {"n_inner", 50},
                     {"activation_function", "relu"},
                     {"layer_norm_epsilon", 1e-6},
                     {"scale_attn_weights", false},
                     {"scale_attn_by_inverse_layer_idx", true},
                     {"reorder_and_upcast_attn", true},
                     {"tie_word_embeddings", false},
                     {"bos_token_id", 5},
                     {"eos_token_id", 50256}};
  const Architecture config = architecture_from_json(json, "c");
  EXPECT_EQ(config.mlp_width, 50);
  EXPECT_EQ(config.activation, Activation::relu);
  EXPECT_EQ(config.epsilon, 1e-6);
  EXPECT_EQ(config.attention_factor(0), 1.0);
  EXPECT_EQ(config.attention_factor(3), 0.25);
  EXPECT_FALSE(config.tied);
  EXPECT_EQ(config.bos_token, 5);
  EXPECT_TRUE(config.eos_tokens.empty()) << "GPT-2's own id means nothing in a smaller vocabulary";
}

TEST(Architecture, RoundTrip) {
  Architecture config = architecture_from_json(good_config(), "c");
  config.activation = Activation::gelu;
  config.layer_scale = LayerScale::by_inverse_index;
  config.attention_scale = AttentionScale::none;
  config.mlp_width = 77;
  config.eos_tokens = {3};
  EXPECT_EQ(architecture_from_json(architecture_to_json(config), "c"), config);
}

TEST(Architecture, TextsMayEndInSeveralWays) {
  Json json = good_config();
  json["eos_token_id"] = {3, 5};
  const Architecture config = architecture_from_json(json, "c");
  EXPECT_EQ(config.eos_tokens, (std::vector<int64_t>{3, 5}));
  EXPECT_EQ(architecture_from_json(architecture_to_json(config), "c"), config);
  const TemporaryDir dir;
  EXPECT_EQ(read_end_tokens(dir.path(), config), config.eos_tokens) << "there is no generation_config.json";
  for (const auto& [text, expected] :
       std::map<std::string, std::vector<int64_t>>{{R"({"eos_token_id": [7, 8]})", {7, 8}},
                                                   {R"({"eos_token_id": 9})", {9}},
                                                   {R"({})", {3, 5}},
                                                   {R"({"eos_token_id": null})", {3, 5}}}) {
    write_file_atomically(dir.path() / "generation_config.json", text);
    EXPECT_EQ(read_end_tokens(dir.path(), config), expected) << text;
  }
  for (const char* bad : {"\"7\"", "[\"7\"]", "[7, -1]", "1.5", "{}"}) {
    write_file_atomically(dir.path() / "generation_config.json", fmt::format(R"({{"eos_token_id": {}}})", bad));
    expect_message(error_of<InputError>([&] { read_end_tokens(dir.path(), config); }),
                   {"generation_config.json", "eos_token_id"});
  }
}

TEST(Architecture, PositionsCountWhereTheContextSaysOtherwise) {
  Json json = good_config();
  std::vector<std::string> notes;
  json["n_ctx"] = json["n_positions"];
  architecture_from_json(json, "c", &notes);
  EXPECT_TRUE(notes.empty());
  const auto positions = json["n_positions"].get<int64_t>();
  json["n_ctx"] = positions / 2;
  EXPECT_EQ(architecture_from_json(json, "c", &notes).positions, positions);
  ASSERT_EQ(notes.size(), 1u);
  expect_message(notes[0], {"c: ", "n_ctx", "n_positions", "counts"});
}

TEST(Architecture, CountsParameters) {
  // GPT-2 small: 124,439,808 parameters
  const Json json = {{"n_layer", 12}, {"n_embd", 768}, {"n_head", 12}, {"n_positions", 1024}, {"vocab_size", 50257}};
  EXPECT_EQ(architecture_from_json(json, "c").parameter_count(), 124439808);
}

TEST(Architecture, ReadsTheGoldenModel) {
  const auto shared = test::shared_dir();
  if (!shared) GTEST_SKIP() << "no golden files";
  const Architecture config = read_architecture(*shared / "golden/tiny-a/model/config.json");
  EXPECT_EQ(config.width, 96);
  EXPECT_EQ(config.eos_tokens, std::vector<int64_t>{50256});
}

struct BadConfig {
  std::string name;
  std::string field;
  Json value;  ///< discarded: the field is removed
  std::string cause;
};

// Tests are listed by it.
void PrintTo(const BadConfig& value, std::ostream* out) { *out << value.name; }

class BadConfigTest : public testing::TestWithParam<BadConfig> {};

TEST_P(BadConfigTest, IsRefusedNamingFileAndField) {
  const TemporaryDir dir;
  Json json = good_config();
  if (GetParam().value.is_discarded()) {
    json.erase(GetParam().field);
  } else {
    json[GetParam().field] = GetParam().value;
  }
  write_file_atomically(dir.file("config.json"), json.dump());
  const std::string message = error_of<InputError>([&] { read_architecture(dir.file("config.json")); });
  expect_message(message, {dir.file("config.json"), "\"" + GetParam().field + "\"", GetParam().cause});
}

const Json kRemoved = Json(Json::value_t::discarded);

INSTANTIATE_TEST_SUITE_P(
    Architecture, BadConfigTest,
    testing::Values(
        BadConfig{"no_layers", "n_layer", kRemoved, "missing"}, BadConfig{"no_width", "n_embd", kRemoved, "missing"},
        BadConfig{"no_heads", "n_head", kRemoved, "missing"},
        BadConfig{"no_positions", "n_positions", kRemoved, "missing"},
        BadConfig{"no_vocabulary", "vocab_size", kRemoved, "missing"},
        BadConfig{"null_layers", "n_layer", nullptr, "missing"},
        BadConfig{"zero_layers", "n_layer", 0, "between 1 and"},
        BadConfig{"negative_layers", "n_layer", -1, "between 1 and"},
        BadConfig{"decimal_layers", "n_layer", 1.9, "integer"}, BadConfig{"text_layers", "n_layer", "6", "integer"},
        BadConfig{"list_layers", "n_layer", Json::array({6}), "integer"},
        BadConfig{"hostile_layers", "n_layer", int64_t{1} << 62, "between 1 and"},
        BadConfig{"unsigned_layers", "n_layer", uint64_t{18446744073709551615u}, "64 bits"},
        BadConfig{"hostile_width", "n_embd", int64_t{1} << 40, "between 1 and"},
        BadConfig{"zero_heads", "n_head", 0, "between 1 and"},
        BadConfig{"heads_do_not_divide", "n_head", 5, "does not divide"},
        BadConfig{"more_heads_than_width", "n_head", 97, "does not divide"},
        BadConfig{"zero_positions", "n_positions", 0, "between 1 and"},
        BadConfig{"hostile_positions", "n_positions", int64_t{1} << 50, "between 1 and"},
        BadConfig{"hostile_vocabulary", "vocab_size", int64_t{1} << 50, "between 1 and"},
        BadConfig{"boolean_vocabulary", "vocab_size", true, "integer"},
        BadConfig{"zero_inner", "n_inner", 0, "between 1 and"}, BadConfig{"text_inner", "n_inner", "384", "integer"},
        BadConfig{"unknown_activation", "activation_function", "mish", "gelu_new, gelu, relu and silu"},
        BadConfig{"number_activation", "activation_function", 1, "string"},
        BadConfig{"zero_epsilon", "layer_norm_epsilon", 0.0, "above 0"},
        BadConfig{"negative_epsilon", "layer_norm_epsilon", -1e-5, "above 0"},
        BadConfig{"large_epsilon", "layer_norm_epsilon", 2.0, "above 0"},
        BadConfig{"text_epsilon", "layer_norm_epsilon", "1e-5", "number"},
        BadConfig{"other_type", "model_type", "bloom", "loci reads gpt2"},
        BadConfig{"number_type", "model_type", 2, "string"},
        BadConfig{"scale_text", "scale_attn_weights", "true", "true or false"},
        BadConfig{"inverse_number", "scale_attn_by_inverse_layer_idx", 1, "true or false"},
        BadConfig{"upcast_number", "reorder_and_upcast_attn", 0, "true or false"},
        BadConfig{"tie_text", "tie_word_embeddings", "no", "true or false"},
        BadConfig{"cross_attention", "add_cross_attention", true, "cross-attention"},
        BadConfig{"context_text", "n_ctx", "160", "integer"},
        BadConfig{"alias_layers", "num_hidden_layers", 7, "other name"},
        BadConfig{"alias_width", "hidden_size", 97, "other name"},
        BadConfig{"alias_heads", "num_attention_heads", 3, "other name"},
        BadConfig{"alias_positions", "max_position_embeddings", 100, "other name"},
        BadConfig{"bos_outside", "bos_token_id", 50257, "vocab_size"},
        BadConfig{"eos_outside", "eos_token_id", 50257, "vocab_size"},
        BadConfig{"eos_below", "eos_token_id", -2, "between -1 and"},
        BadConfig{"eos_of_list_outside", "eos_token_id", Json::array({1, 50257}), "vocab_size"},
        BadConfig{"eos_list_of_text", "eos_token_id", Json::array({"a"}), "integer"},
        BadConfig{"eos_text", "eos_token_id", "<|endoftext|>", "integer"}),
    [](const auto& param) { return param.param.name; });

TEST(Architecture, FilesThatAreNoObject) {
  const TemporaryDir dir;
  for (const char* text : {"", "[]", "3", "null", "{", "{\"n_layer\": 1, \"n_layer\": 2}"}) {
    write_file_atomically(dir.file("config.json"), std::string_view(text));
    expect_message(error_of<InputError>([&] { read_architecture(dir.file("config.json")); }),
                   {dir.file("config.json")});
  }
  expect_message(error_of<InputError>([&] { read_architecture(dir.file("none.json")); }), {dir.file("none.json")});
}

}  // namespace
}  // namespace loci
