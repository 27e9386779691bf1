#pragma once

#include <cstdint>
#include <filesystem>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "model/config.h"
#include "runtime/json.h"
#include "runtime/stored.h"

namespace loci {

/// How documents become the sequences of an epoch. A sequence is one document or several joined ones; its tokens see
/// each other and nothing else. What is random is drawn anew for each epoch.
struct SequenceOptions {
  int64_t max_tokens = 0;            ///< of a sequence; longer ones are cut into pieces (0: the model's positions)
  int64_t join_most = 1;             ///< up to this many documents stand behind each other in one sequence,
  double join_probability = 0;       ///< each with this probability behind the one before it,
  std::string join_separator = " ";  ///< with this text between them
  double endoftext_before = 0;       ///< probability that a sequence starts with <|endoftext|>
  bool endoftext_after = true;       ///< every sequence ends with <|endoftext|>

  bool operator==(const SequenceOptions&) const = default;
};

/// A regulariser: with `probability`, drawn for each sequence and step, the MLP outputs of blocks first_layer and up
/// are multiplied by `factor` (0: dropped). It forces recall into the lower blocks.
struct MlpDrop {
  int64_t first_layer = 0;
  double probability = 0;
  double factor = 0;

  bool operator==(const MlpDrop&) const = default;
};

/// A regulariser for documents that say where their subjects stand (JSON lines with `subjects`: [[begin, end], ...] in
/// bytes): with `probability`, drawn for each sequence and step, rows of blocks 0 .. layers - 1 attend within their own
/// stretch only, where a stretch ends before and behind each subject. What those blocks know of a subject then comes
/// from its name alone.
struct AttentionCut {
  int64_t layers = 0;
  double probability = 0;

  bool operator==(const AttentionCut&) const = default;
};

/// Likewise: the MLP outputs of blocks 0 .. layers - 1 are multiplied by `factor` at all tokens of a subject but its
/// last, so that the last one's does the recall.
struct NameMlpDrop {
  int64_t layers = 0;
  double probability = 0;
  double factor = 0;

  bool operator==(const NameMlpDrop&) const = default;
};

/// A training job. The JSON keys are the members' names; a file that holds any other key is refused.
///
///     {"tokenizer": "DIR", "model": {"layers": 8, "width": 192, "heads": 6, "positions": 128},
///      "text": ["FILE", ...], "epochs": 40, "learning_rate": 1e-3}
///
/// `model` describes one from scratch (mlp_width, activation, tied, layer_norm_epsilon optional; the vocabulary is the
/// tokenizer's); `initial_model` names a Hugging Face directory to fine-tune instead, with its tokenizer. Paths are
/// relative to the working directory.
struct TrainingConfig {
  std::optional<GptConfig> model;
  std::filesystem::path initial_model;
  std::filesystem::path tokenizer;
  std::vector<std::filesystem::path> text;  ///< a document a line, or JSON lines with `text`; may be compressed
  std::vector<std::filesystem::path> validation_text;  ///< likewise; or
  double validation_fraction = 0;                      ///< of the documents in `text`, held out
  SequenceOptions sequences;                           ///< key "sequences"

  int64_t epochs = 0;  ///< either epochs or steps
  int64_t steps = 0;
  int64_t tokens_per_step = 8192;    ///< sequences are added to a step until the next would exceed this
  int64_t tokens_per_wave = 2048;    ///< rows computed at once; gradients of a step's waves are added up
  double learning_rate = 1e-3;       ///< peak, after a linear warm-up of
  int64_t warmup_steps = 100;        ///< steps; then a cosine down to
  double learning_rate_floor = 0.1;  ///< times the peak at the last step
  double beta_1 = 0.9;
  double beta_2 = 0.95;
  double epsilon = 1e-8;
  double weight_decay = 0.1;          ///< decoupled, on the matrices of the blocks
  double embedding_weight_decay = 0;  ///< on the token embedding and an untied unembedding
  double gradient_clip = 1;           ///< largest global norm; 0: none
  double initial_deviation = 0.02;    ///< of normal weights; residual projections: divided by sqrt(2 layers)
  std::vector<MlpDrop> mlp_drop;
  AttentionCut attention_cut;
  NameMlpDrop name_mlp_drop;

  int64_t validate_every = 500;               ///< steps
  int64_t checkpoint_every = 500;             ///< steps
  int64_t report_every = 20;                  ///< steps
  StoredType stored_type = StoredType::fp32;  ///< of the weights in the result: "fp32", "fp16", "bf16"
  uint64_t seed = 0;
};

/// Throws InputError naming `where` and the key: unknown, missing, of the wrong type, out of range, contradicting
/// another.
TrainingConfig training_config_from_json(const Json& json, std::string_view where);

/// Every key with its value, given or default.
Json training_config_to_json(const TrainingConfig& config);

}  // namespace loci
