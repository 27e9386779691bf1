#include "model/train/config.h"

#include "model/families/families.h"
#include "runtime/error.h"
#include "runtime/io/settings.h"

namespace loci {
namespace {

constexpr NamedValues<StoredType, 3> kStoredTypes{
    {{"fp32", StoredType::fp32}, {"fp16", StoredType::fp16}, {"bf16", StoredType::bf16}}};

void check_model(Architecture& model, const std::string& where) {
  if (model.mlp_width == 0) model.mlp_width = 4 * model.width;
  require<InputError>(model.width % model.heads == 0, "{}: field \"width\" {} is not a multiple of \"heads\" {}", where,
                      model.width, model.heads);
  model.family = &gpt2();
  model.set_equal_heads(model.heads);
  model.vocabulary = 1;  // until the tokenizer is known
  model.check(where);
}

/// What no field tells by itself.
void check_together(const TrainingConfig& config, const std::string& where) {
  require<InputError>(config.model.has_value() != !config.initial_model.empty(),
                      "{}: give either \"model\" (to train from scratch) or \"initial_model\" (to fine-tune)", where);
  require<InputError>(!config.model || !config.tokenizer.empty(),
                      "{}: field \"tokenizer\" is missing: a folder with a tokenizer", where);
  require<InputError>(config.model || config.tokenizer.empty(),
                      "{}: \"initial_model\" comes with its tokenizer; remove \"tokenizer\"", where);
  require<InputError>(!config.text.empty(), "{}: field \"text\" is empty: give one text file or a list of them", where);
  require<InputError>(config.validation_text.empty() || config.validation_fraction == 0,
                      "{}: give either \"validation_text\" or \"validation_fraction\"", where);
  require<InputError>((config.epochs > 0) != (config.steps > 0), "{}: give either \"epochs\" or \"steps\"", where);
  if (!config.model) return;
  for (const MlpDrop& drop : config.mlp_drop)
    require<InputError>(drop.first_layer < config.model->layers,
                        "{}: field \"mlp_drop\": \"first_layer\" is {} but the model has {} layers", where,
                        drop.first_layer, config.model->layers);
}

}  // namespace

/// The architecture of a model from scratch. The limits are those of Architecture::check().
void visit_fields(Fields& field, Architecture& model) {
  field("layers", model.layers, {1, 4096}, "blocks", Presence::required);
  field("width", model.width, {1, 1 << 18}, "width of the residual stream", Presence::required);
  field("heads", model.heads, {1, 1 << 16}, "attention heads; they divide the width", Presence::required);
  field("positions", model.positions, {1, 1 << 24}, "longest sequence in tokens", Presence::required);
  field("mlp_width", model.mlp_width, {1, 1 << 21}, "width of the MLPs' inner layer; none: 4 times `width`",
        Presence::off);
  field("activation", model.activation, kActivationNames, "activation of the MLPs");
  field("layer_norm_epsilon", model.epsilon, {0, 1}, "added to the variance");
  field("tied", model.tied, "the unembedding is the token embedding");
}

void visit_fields(Fields& field, SequenceOptions& options) {
  field("max_tokens", options.max_tokens, {0, kNoLimit},
        "longest sequence; 0: the model's positions. Longer documents are cut into several sequences; no prediction is "
        "lost");
  field("join_most", options.join_most, {1, kNoLimit}, "up to so many documents stand in one sequence");
  field("join_probability", options.join_probability, {0, 1},
        "probability that a document follows the one before it in the same sequence");
  field("join_separator", options.join_separator, "text between joined documents");
  field("endoftext_before", options.endoftext_before, {0, 1},
        "probability that a sequence starts with `<|endoftext|>`");
  field("endoftext_after", options.endoftext_after, "every sequence ends with `<|endoftext|>`");
}

void visit_fields(Fields& field, MlpDrop& drop) {
  field("first_layer", drop.first_layer, {0, kNoLimit}, "the first block", Presence::required);
  field("probability", drop.probability, {0, 1}, "that a sequence of a step is affected", Presence::required);
  field("factor", drop.factor, {}, "0: dropped");
}

void visit_fields(Fields& field, AttentionCut& cut) {
  field("layers", cut.layers, {0, kNoLimit}, "number of blocks, from the first on", Presence::required);
  field("probability", cut.probability, {0, 1}, "that a sequence of a step is affected", Presence::required);
}

void visit_fields(Fields& field, NameMlpDrop& drop) {
  field("layers", drop.layers, {0, kNoLimit}, "number of blocks, from the first on", Presence::required);
  field("probability", drop.probability, {0, 1}, "that a sequence of a step is affected", Presence::required);
  field("factor", drop.factor, {}, "0: dropped");
}

void visit_fields(Fields& field, TrainingConfig& config) {
  field("model", config.model, "the architecture of a model to train from scratch");
  field("tokenizer", config.tokenizer,
        "required with `model`: a folder with a tokenizer. The vocabulary is as large as the tokenizer's",
        Presence::off);
  field("initial_model", config.initial_model, "instead of both: a Hugging Face folder to fine-tune", Presence::off);
  field("text", config.text,
        "text files: one document per line, or JSON Lines with `text` and optionally `subjects`; also `.gz`, `.bz2`, "
        "`.zst`",
        Presence::required);
  field("validation_text", config.validation_text, "held-out documents, in files of their own", Presence::off);
  field("validation_fraction", config.validation_fraction, {0, 0.5},
        "held-out documents: a share of `text`, drawn by seed", Presence::off);
  field("sequences", config.sequences, "how documents become sequences");
  field("epochs", config.epochs, {1, kNoLimit}, "the length of the training; exactly one of `epochs` and `steps`",
        Presence::off);
  field("steps", config.steps, {1, kNoLimit}, "the length of the training in steps of the optimiser", Presence::off);
  field("tokens_per_step", config.tokens_per_step, {2, kNoLimit},
        "sequences are added to a step until the next one would exceed this");
  field("tokens_per_wave", config.tokens_per_wave, {2, kNoLimit},
        "rows that are computed at once. A step consists of waves, whose gradients are added");
  field("learning_rate", config.learning_rate, {0, 100}, "peak, after a linear warm-up");
  field("warmup_steps", config.warmup_steps, {0, kNoLimit}, "steps of the warm-up");
  field("learning_rate_floor", config.learning_rate_floor, {0, 1},
        "after the warm-up the rate falls along half a cosine to this share of the peak");
  field("beta_1", config.beta_1, {0, 0.999999}, "AdamW (Loshchilov & Hutter 2019)");
  field("beta_2", config.beta_2, {0, 0.99999999}, "AdamW");
  field("epsilon", config.epsilon, {1e-30, 1}, "AdamW");
  field("weight_decay", config.weight_decay, {0, 100}, "decoupled; on the matrices of the blocks");
  field("embedding_weight_decay", config.embedding_weight_decay, {0, 100},
        "on the token embedding and an untied unembedding. Gains, biases and positions never decay");
  field("gradient_clip", config.gradient_clip, {0, 1e30}, "largest global norm of a step's gradient; 0: no limit");
  field("initial_deviation", config.initial_deviation, {0, 10},
        "standard deviation of the initial weights. For projections into the residual stream it is divided by sqrt(2 "
        "layers)");
  field("mlp_drop", config.mlp_drop, "MLP outputs of blocks `first_layer` and up are multiplied by `factor`");
  field("attention_cut", config.attention_cut,
        "in blocks below `layers`, tokens attend only within their stretch of text between the ends of subjects");
  field("name_mlp_drop", config.name_mlp_drop,
        "in blocks below `layers`, MLP outputs at a subject's tokens, except its last, are multiplied by `factor`");
  field("validate_every", config.validate_every, {1, kNoLimit}, "steps from one validation to the next");
  field("checkpoint_every", config.checkpoint_every, {1, kNoLimit}, "steps from one checkpoint to the next");
  field("report_every", config.report_every, {1, kNoLimit}, "steps from one message to the next");
  field("stored_type", config.stored_type, kStoredTypes, "type of the weights in the result");
  field("seed", config.seed, "of weights, order, joining and regularisers");
}

TrainingConfig training_config_from_json(const Json& json, std::string_view where_view) {
  const std::string where(where_view);
  require<InputError>(json.is_object(), "{}: the file must hold one JSON object", where);
  TrainingConfig config;
  read_settings(json, where, fields_of(config));
  if (config.model) check_model(*config.model, where + ": field \"model\"");
  check_together(config, where);
  return config;
}

Json training_config_to_json(const TrainingConfig& config) {
  TrainingConfig copy = config;
  return settings_to_json(fields_of(copy));
}

}  // namespace loci
