#include "model/training_config.h"

#include <cmath>

#include "runtime/error.h"

namespace loci {
namespace {

constexpr int64_t kMost = int64_t{1} << 40;

SequenceOptions sequences_from_json(const Json& json, const std::string& where) {
  refuse_unknown_keys(
      json, {"max_tokens", "join_most", "join_probability", "join_separator", "endoftext_before", "endoftext_after"},
      where);
  SequenceOptions made;
  made.max_tokens = json_int_or(json, "max_tokens", made.max_tokens, where, 0, kMost);
  made.join_most = json_int_or(json, "join_most", made.join_most, where, 1, kMost);
  made.join_probability = json_number_or(json, "join_probability", made.join_probability, where, 0, 1);
  made.join_separator = json_string_or(json, "join_separator", made.join_separator, where);
  made.endoftext_before = json_number_or(json, "endoftext_before", made.endoftext_before, where, 0, 1);
  made.endoftext_after = json_bool_or(json, "endoftext_after", made.endoftext_after, where);
  return made;
}

MlpDrop mlp_drop_from_json(const Json& json, const std::string& where) {
  refuse_unknown_keys(json, {"first_layer", "probability", "factor"}, where);
  return {.first_layer = json_int(json, "first_layer", where, 0, kMost),
          .probability = json_number(json, "probability", where, 0, 1),
          .factor = json_number_or(json, "factor", 0, where)};
}

AttentionCut attention_cut_from_json(const Json& json, const std::string& where) {
  refuse_unknown_keys(json, {"layers", "probability"}, where);
  return {.layers = json_int(json, "layers", where, 0, kMost),
          .probability = json_number(json, "probability", where, 0, 1)};
}

NameMlpDrop name_mlp_drop_from_json(const Json& json, const std::string& where) {
  refuse_unknown_keys(json, {"layers", "probability", "factor"}, where);
  return {.layers = json_int(json, "layers", where, 0, kMost),
          .probability = json_number(json, "probability", where, 0, 1),
          .factor = json_number_or(json, "factor", 0, where)};
}

/// The architecture in the words of GptConfig. The vocabulary comes with the tokenizer.
GptConfig model_from_json(const Json& json, const std::string& where) {
  refuse_unknown_keys(
      json, {"layers", "width", "heads", "positions", "mlp_width", "activation", "layer_norm_epsilon", "tied"}, where);
  const int64_t width = json_int(json, "width", where, 1, 1 << 20);
  Json hugging_face = {
      {"model_type", "gpt2"},
      {"n_layer", json_int(json, "layers", where, 1, 1 << 16)},
      {"n_embd", width},
      {"n_head", json_int(json, "heads", where, 1, 1 << 16)},
      {"n_positions", json_int(json, "positions", where, 1, 1 << 24)},
      {"n_inner", json_int_or(json, "mlp_width", 4 * width, where, 1, 1 << 24)},
      {"activation_function", json_string_or(json, "activation", "gelu_new", where)},
      {"layer_norm_epsilon", json_number_or(json, "layer_norm_epsilon", 1e-5, where, 0, 1)},
      {"tie_word_embeddings", json_bool_or(json, "tied", true, where)},
      {"vocab_size", 1},
  };
  require<InputError>(width % hugging_face["n_head"].get<int64_t>() == 0,
                      "{}: field \"width\" {} is no multiple of \"heads\" {}", where, width,
                      hugging_face["n_head"].get<int64_t>());
  return gpt_config_from_json(hugging_face, where);
}

Json model_to_json(const GptConfig& config) {
  return {{"layers", config.layers},
          {"width", config.width},
          {"heads", config.heads},
          {"positions", config.positions},
          {"mlp_width", config.mlp_width},
          {"activation", activation_name(config.activation)},
          {"layer_norm_epsilon", config.layer_norm_epsilon},
          {"tied", config.tied}};
}

/// One path or a list of them.
std::vector<std::filesystem::path> paths_from_json(const Json& json, std::string_view key, std::string_view where) {
  if (!json_has(json, key)) return {};
  if (json_field(json, key, where).is_string()) return {json_string(json, key, where)};
  std::vector<std::filesystem::path> made;
  for (const std::string& path : json_strings(json, key, where)) made.emplace_back(path);
  return made;
}

StoredType stored_type_from_json(const Json& json, std::string_view where) {
  const std::string name = json_string_or(json, "stored_type", "fp32", where);
  if (name == "fp32") return StoredType::fp32;
  if (name == "fp16") return StoredType::fp16;
  if (name == "bf16") return StoredType::bf16;
  throw_error<InputError>("{}: field \"stored_type\" is \"{}\"; use fp32, fp16 or bf16", where, name);
}

const char* stored_type_name(StoredType type) {
  return type == StoredType::fp32 ? "fp32" : type == StoredType::fp16 ? "fp16" : "bf16";
}

void read_sources(const Json& json, const std::string& where, TrainingConfig& made) {
  made.initial_model = json_string_or(json, "initial_model", "", where);
  made.tokenizer = json_string_or(json, "tokenizer", "", where);
  require<InputError>(json_has(json, "model") != json_has(json, "initial_model"),
                      "{}: give either \"model\" (to train from scratch) or \"initial_model\" (to fine-tune)", where);
  if (json_has(json, "model")) {
    require<InputError>(!made.tokenizer.empty(), "{}: field \"tokenizer\" is missing: a folder with a tokenizer",
                        where);
    made.model = model_from_json(json_object(json, "model", where), where + ": field \"model\"");
  } else {
    require<InputError>(made.tokenizer.empty(), "{}: \"initial_model\" comes with its tokenizer; remove \"tokenizer\"",
                        where);
  }
  made.text = paths_from_json(json, "text", where);
  require<InputError>(!made.text.empty(), "{}: field \"text\" is missing: one text file or a list of them", where);
  made.validation_text = paths_from_json(json, "validation_text", where);
  made.validation_fraction = json_number_or(json, "validation_fraction", 0, where, 0, 0.5);
  require<InputError>(made.validation_text.empty() || made.validation_fraction == 0,
                      "{}: give either \"validation_text\" or \"validation_fraction\"", where);
  if (json_has(json, "sequences"))
    made.sequences = sequences_from_json(json_object(json, "sequences", where), where + ": field \"sequences\"");
}

void read_optimiser(const Json& json, const std::string& where, TrainingConfig& made) {
  made.epochs = json_int_or(json, "epochs", 0, where, 1, kMost);
  made.steps = json_int_or(json, "steps", 0, where, 1, kMost);
  require<InputError>((made.epochs > 0) != (made.steps > 0), "{}: give either \"epochs\" or \"steps\"", where);
  made.tokens_per_step = json_int_or(json, "tokens_per_step", made.tokens_per_step, where, 2, kMost);
  made.tokens_per_wave = json_int_or(json, "tokens_per_wave", made.tokens_per_wave, where, 2, kMost);
  made.learning_rate = json_number_or(json, "learning_rate", made.learning_rate, where, 0, 100);
  made.warmup_steps = json_int_or(json, "warmup_steps", made.warmup_steps, where, 0, kMost);
  made.learning_rate_floor = json_number_or(json, "learning_rate_floor", made.learning_rate_floor, where, 0, 1);
  made.beta_1 = json_number_or(json, "beta_1", made.beta_1, where, 0, 0.999999);
  made.beta_2 = json_number_or(json, "beta_2", made.beta_2, where, 0, 0.99999999);
  made.epsilon = json_number_or(json, "epsilon", made.epsilon, where, 1e-30, 1);
  made.weight_decay = json_number_or(json, "weight_decay", made.weight_decay, where, 0, 100);
  made.embedding_weight_decay =
      json_number_or(json, "embedding_weight_decay", made.embedding_weight_decay, where, 0, 100);
  made.gradient_clip = json_number_or(json, "gradient_clip", made.gradient_clip, where, 0, 1e30);
  made.initial_deviation = json_number_or(json, "initial_deviation", made.initial_deviation, where, 0, 10);
}

void read_mlp_drop(const Json& json, const std::string& where, TrainingConfig& made) {
  if (!json_has(json, "mlp_drop")) return;
  const std::string inner = where + ": field \"mlp_drop\"";
  if (json_field(json, "mlp_drop", where).is_object()) {
    made.mlp_drop.push_back(mlp_drop_from_json(json_object(json, "mlp_drop", where), inner));
  } else {
    for (const Json& one : json_array(json, "mlp_drop", where)) made.mlp_drop.push_back(mlp_drop_from_json(one, inner));
  }
  for (const MlpDrop& drop : made.mlp_drop)
    require<InputError>(!made.model || drop.first_layer < made.model->layers,
                        "{}: \"first_layer\" is {} but the model has {} layers", inner, drop.first_layer,
                        made.model ? made.model->layers : 0);
}

}  // namespace

TrainingConfig training_config_from_json(const Json& json, std::string_view where_view) {
  const std::string where(where_view);
  require<InputError>(json.is_object(), "{}: the file must hold one JSON object", where);
  refuse_unknown_keys(json,
                      {"model",
                       "initial_model",
                       "tokenizer",
                       "text",
                       "validation_text",
                       "validation_fraction",
                       "sequences",
                       "epochs",
                       "steps",
                       "tokens_per_step",
                       "tokens_per_wave",
                       "learning_rate",
                       "warmup_steps",
                       "learning_rate_floor",
                       "beta_1",
                       "beta_2",
                       "epsilon",
                       "weight_decay",
                       "embedding_weight_decay",
                       "gradient_clip",
                       "initial_deviation",
                       "mlp_drop",
                       "attention_cut",
                       "name_mlp_drop",
                       "validate_every",
                       "checkpoint_every",
                       "report_every",
                       "stored_type",
                       "seed"},
                      where);
  TrainingConfig made;
  read_sources(json, where, made);
  read_optimiser(json, where, made);
  read_mlp_drop(json, where, made);
  if (json_has(json, "attention_cut"))
    made.attention_cut =
        attention_cut_from_json(json_object(json, "attention_cut", where), where + ": field \"attention_cut\"");
  if (json_has(json, "name_mlp_drop"))
    made.name_mlp_drop =
        name_mlp_drop_from_json(json_object(json, "name_mlp_drop", where), where + ": field \"name_mlp_drop\"");
  made.validate_every = json_int_or(json, "validate_every", made.validate_every, where, 1, kMost);
  made.checkpoint_every = json_int_or(json, "checkpoint_every", made.checkpoint_every, where, 1, kMost);
  made.report_every = json_int_or(json, "report_every", made.report_every, where, 1, kMost);
  made.stored_type = stored_type_from_json(json, where);
  made.seed = static_cast<uint64_t>(json_int_or(json, "seed", 0, where, 0));
  return made;
}

Json training_config_to_json(const TrainingConfig& config) {
  const auto texts = [](const std::vector<std::filesystem::path>& paths) {
    Json list = Json::array();
    for (const auto& path : paths) list.push_back(path.string());
    return list;
  };
  Json drops = Json::array();
  for (const MlpDrop& drop : config.mlp_drop)
    drops.push_back({{"first_layer", drop.first_layer}, {"probability", drop.probability}, {"factor", drop.factor}});
  const SequenceOptions& sequences = config.sequences;
  Json made = {
      {"text", texts(config.text)},
      {"sequences",
       {{"max_tokens", sequences.max_tokens},
        {"join_most", sequences.join_most},
        {"join_probability", sequences.join_probability},
        {"join_separator", sequences.join_separator},
        {"endoftext_before", sequences.endoftext_before},
        {"endoftext_after", sequences.endoftext_after}}},
      {"tokens_per_step", config.tokens_per_step},
      {"tokens_per_wave", config.tokens_per_wave},
      {"learning_rate", config.learning_rate},
      {"warmup_steps", config.warmup_steps},
      {"learning_rate_floor", config.learning_rate_floor},
      {"beta_1", config.beta_1},
      {"beta_2", config.beta_2},
      {"epsilon", config.epsilon},
      {"weight_decay", config.weight_decay},
      {"embedding_weight_decay", config.embedding_weight_decay},
      {"gradient_clip", config.gradient_clip},
      {"initial_deviation", config.initial_deviation},
      {"mlp_drop", drops},
      {"attention_cut", {{"layers", config.attention_cut.layers}, {"probability", config.attention_cut.probability}}},
      {"name_mlp_drop",
       {{"layers", config.name_mlp_drop.layers},
        {"probability", config.name_mlp_drop.probability},
        {"factor", config.name_mlp_drop.factor}}},
      {"validate_every", config.validate_every},
      {"checkpoint_every", config.checkpoint_every},
      {"report_every", config.report_every},
      {"stored_type", stored_type_name(config.stored_type)},
      {"seed", config.seed},
  };
  if (config.model) made["model"] = model_to_json(*config.model);
  if (!config.initial_model.empty()) made["initial_model"] = config.initial_model.string();
  if (!config.tokenizer.empty()) made["tokenizer"] = config.tokenizer.string();
  if (!config.validation_text.empty()) made["validation_text"] = texts(config.validation_text);
  if (config.validation_fraction > 0) made["validation_fraction"] = config.validation_fraction;
  if (config.epochs > 0) made["epochs"] = config.epochs;
  if (config.steps > 0) made["steps"] = config.steps;
  return made;
}

}  // namespace loci
