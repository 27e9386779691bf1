#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "model/architecture.h"
#include "runtime/io/json.h"
#include "runtime/stored.h"

namespace loci {

class Fields;  // runtime/io/settings.h

/// How documents become the sequences of an epoch. A sequence is one document or several joined ones; its tokens see
/// each other and nothing else. Every epoch draws again.
struct SequenceOptions {
  int64_t max_tokens = 0;  ///< 0: the model's positions
  int64_t join_most = 1;
  double join_probability = 0;
  std::string join_separator = " ";
  double endoftext_before = 0;
  bool endoftext_after = true;

  bool operator==(const SequenceOptions&) const = default;
};
void visit_fields(Fields& field, SequenceOptions& options);

/// A regulariser: with `probability`, drawn for each sequence and step, the MLP outputs of blocks first_layer and up
/// are multiplied by `factor` (0: dropped). It forces recall into the lower blocks.
struct MlpDrop {
  int64_t first_layer = 0;
  double probability = 0;
  double factor = 0;

  bool operator==(const MlpDrop&) const = default;
};
void visit_fields(Fields& field, MlpDrop& drop);

/// A regulariser for documents that say where their subjects stand (JSON lines with `subjects`: [[begin, end], ...] in
/// bytes): with `probability`, drawn for each sequence and step, rows of blocks 0 .. layers - 1 attend within their own
/// stretch only, where a stretch ends before and after each subject. What those blocks know of a subject then comes
/// from its name alone.
struct AttentionCut {
  int64_t layers = 0;
  double probability = 0;

  bool operator==(const AttentionCut&) const = default;
};
void visit_fields(Fields& field, AttentionCut& cut);

/// Likewise: the MLP outputs of blocks 0 .. layers - 1 are multiplied by `factor` at all tokens of a subject but its
/// last, so that the last one's does the recall.
struct NameMlpDrop {
  int64_t layers = 0;
  double probability = 0;
  double factor = 0;

  bool operator==(const NameMlpDrop&) const = default;
};
void visit_fields(Fields& field, NameMlpDrop& drop);

/// A training job. The JSON keys are the members' names; visit_fields() says what they mean.
///
///     {"tokenizer": "DIR", "model": {"layers": 8, "width": 192, "heads": 6, "positions": 128},
///      "text": ["FILE", ...], "epochs": 40, "learning_rate": 1e-3}
///
/// `model` describes one from scratch, whose vocabulary is the tokenizer's; `initial_model` names a Hugging Face
/// directory to fine-tune instead, with its tokenizer. Paths are relative to the working directory.
struct TrainingConfig {
  std::optional<Architecture> model;
  std::filesystem::path initial_model;
  std::filesystem::path tokenizer;
  std::vector<std::filesystem::path> text;
  std::vector<std::filesystem::path> validation_text;
  double validation_fraction = 0;
  SequenceOptions sequences;

  int64_t epochs = 0;  ///< either epochs or steps
  int64_t steps = 0;
  int64_t tokens_per_step = 8192;
  int64_t tokens_per_wave = 2048;
  double learning_rate = 1e-3;
  int64_t warmup_steps = 100;
  double learning_rate_floor = 0.1;
  double beta_1 = 0.9;
  double beta_2 = 0.95;
  double epsilon = 1e-8;
  double weight_decay = 0.1;
  double embedding_weight_decay = 0;
  double gradient_clip = 1;
  double initial_deviation = 0.02;
  std::vector<MlpDrop> mlp_drop;
  AttentionCut attention_cut;
  NameMlpDrop name_mlp_drop;

  int64_t validate_every = 500;
  int64_t checkpoint_every = 500;
  int64_t report_every = 20;
  StoredType stored_type = StoredType::fp32;
  uint64_t seed = 0;
};
void visit_fields(Fields& field, TrainingConfig& config);

/// Throws InputError naming `where` and the key: unknown, missing, of the wrong type, out of range, contradicting
/// another.
TrainingConfig training_config_from_json(const Json& json, std::string_view where);

/// Every key with its value, given or default.
Json training_config_to_json(const TrainingConfig& config);

}  // namespace loci
