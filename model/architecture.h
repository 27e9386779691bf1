#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/activation.h"
#include "kernels/norm.h"
#include "kernels/weight.h"
#include "model/rotary.h"
#include "runtime/io/json.h"
#include "runtime/io/safetensors.h"
#include "runtime/named_value.h"

/// What a model is, as data: its architecture, and the parameters that its family stores.
namespace loci {

/// Hugging Face's names.
inline constexpr NamedValues<Activation, 9> kActivationNames{{{"gelu_new", Activation::gelu_new},
                                                              {"gelu_fast", Activation::gelu_new},
                                                              {"gelu_pytorch_tanh", Activation::gelu_new},
                                                              {"gelu_accurate", Activation::gelu_new},
                                                              {"gelu", Activation::gelu},
                                                              {"gelu_python", Activation::gelu},
                                                              {"relu", Activation::relu},
                                                              {"silu", Activation::silu},
                                                              {"swish", Activation::silu}}};
inline std::string_view activation_name(Activation activation) { return name_of(activation, kActivationNames); }

/// Whether attention scores are divided by sqrt(head width).
enum class AttentionScale { by_head_width, none };
/// Whether scores are divided by layer + 1 too.
enum class LayerScale { none, by_inverse_index };

/// How a block adds to the residual stream x.
enum class Residual {
  sequential,  ///< x += attention(N_1(x)); x += mlp(N_2(x))
  parallel,    ///< x += attention(N_1(x)) + mlp(N_2(x)); a family without N_2 uses N_1 for both
};
enum class Mlp {
  plain,  ///< W_down f(W_up x)
  gated,  ///< W_down (f(W_gate x) * W_up x)   (Shazeer 2020, eq. 6)
};
/// Whether each head of queries and keys is normalised before it is turned (RMSNorm with the model's epsilon).
enum class HeadNorm { none, rms };

struct Family;

/// The shape of a GPT and what its parts compute. A family reads it from config.json and writes it back.
struct Architecture {
  const Family* family = nullptr;
  int64_t layers = 0;
  int64_t width = 0;  ///< d, of the residual stream
  int64_t heads = 0;
  int64_t key_heads = 0;   ///< heads of keys and values; divides `heads`
  int64_t head_width = 0;  ///< of a query, key or value
  int64_t mlp_width = 0;   ///< ff, of the MLP's hidden layer
  int64_t positions = 0;   ///< longest sequence
  int64_t vocabulary = 0;  ///< V
  Norm norm = Norm::layer;
  double epsilon = 1e-5;  ///< of the norms
  Activation activation = Activation::gelu_new;
  Residual residual = Residual::sequential;
  Mlp mlp = Mlp::plain;
  std::optional<Rotary> rotary = {};  ///< of families without position embeddings
  HeadNorm head_norm = HeadNorm::none;
  int64_t window = 0;  ///< keys that a query sees, its own among them; 0: all up to its own
  bool qkv_bias = true, out_bias = true, mlp_bias = true;  ///< in families that leave the choice
  AttentionScale attention_scale = AttentionScale::by_head_width;
  LayerScale layer_scale = LayerScale::none;
  bool tied = true;                 ///< the unembedding is the token embedding
  int64_t bos_token = -1;           ///< first id a text is sampled from; -1 if the file does not say
  std::vector<int64_t> eos_tokens;  ///< the ids that end a text

  /// Columns of queries, of keys (and of values), and of all three side by side.
  int64_t query_width() const { return heads * head_width; }
  int64_t key_width() const { return key_heads * head_width; }
  int64_t qkv_width() const { return query_width() + 2 * key_width(); }
  /// As many key heads as heads, which share the width: what GPT-2 does.
  void set_equal_heads(int64_t count);
  /// What scores q.k of this layer are multiplied by.
  double attention_factor(int64_t layer) const;
  int64_t parameter_count() const;
  /// Throws InputError naming `where` and the first value that is out of range or contradicts another.
  void check(std::string_view where) const;

  bool operator==(const Architecture&) const = default;
};

// Limits far beyond any GPT that exists, but small enough that no product of two overflows or exhausts a machine
// unseen.
inline constexpr int64_t kMaxLayers = 4096;
inline constexpr int64_t kMaxWidth = 1 << 18;
inline constexpr int64_t kMaxPositions = 1 << 24;
inline constexpr int64_t kMaxVocabulary = 1 << 26;
inline constexpr int64_t kMaxMlpWidth = 1 << 21;

/// What a parameter is for. Those from norm_1_gain to down_bias belong to a block.
enum class Role {
  token_embedding,     ///< [V, d]
  position_embedding,  ///< [positions, d]
  norm_1_gain,         ///< [d]: before the attention
  norm_1_bias,
  qkv_weight,  ///< d -> queries, keys and values side by side
  qkv_bias,
  q_norm_gain,  ///< [head width]: of each head of queries
  k_norm_gain,
  out_weight,  ///< heads -> d
  out_bias,
  norm_2_gain,  ///< before the MLP
  norm_2_bias,
  gate_weight,  ///< d -> ff, before the activation function of a gated MLP
  gate_bias,
  up_weight,  ///< d -> ff, before the activation function of a plain MLP
  up_bias,
  down_weight,  ///< ff -> d
  down_bias,
  final_norm_gain,
  final_norm_bias,
  unembedding,       ///< [V, d]; where it is not tied
  unembedding_bias,  ///< [V]
};

/// Matrices multiply rows; tables have a row for each token or position; the others are vectors.
enum class RoleKind { matrix, table, gain, bias };
RoleKind kind_of(Role role);
inline bool in_block(Role role) { return role >= Role::norm_1_gain && role <= Role::down_bias; }

/// One parameter of a block: a matrix, or a bias.
struct WeightId {
  Role role;
  int64_t layer;

  auto operator<=>(const WeightId&) const = default;
};

/// How queries, keys and values, which are side by side in memory, lie in a file. Not for matrices stored as [in, out].
enum class Packing {
  whole,    ///< as in memory
  apart,    ///< as three tensors; their names have q, k or v in place of "qkv"
  by_head,  ///< in one tensor: head by head, the rows of its query, of its key and of its value
};

/// A line of a family's table: what a parameter is called, and how it is stored.
struct ParameterRule {
  Role role;
  std::string_view name;                                   ///< canonical: without Family::body; {} stands for the layer
  Orientation stored = Orientation::in_out;                ///< of a matrix
  bool (*present)(const Architecture& architecture) = {};  ///< null: in every model
  Packing packing = Packing::whole;
};

/// What becomes of tensors in a checkpoint that no parameter corresponds to.
enum class OtherTensors { ignored, refused };

/// A family of models: all that is particular to it. docs/adding_a_family.md
struct Family {
  std::string_view model_type;  ///< in config.json
  std::string_view title;       ///< for people
  std::string_view body;        ///< what names have in front where they belong to the body of a model with a head
  /// From config.json's object. Throws InputError naming `where` and the field. `notes`, where they are wanted, get a
  /// sentence for each field that says something else than what counts.
  Architecture (*read)(const Json& json, std::string_view where, std::vector<std::string>* notes);
  /// As Hugging Face writes it, so that transformers loads it.
  Json (*write)(const Architecture& architecture);
  /// Whether a tensor of this canonical name is a buffer that some versions of transformers store beside the weights.
  bool (*is_buffer)(std::string_view name);
  std::span<const ParameterRule> parameters;  ///< in the order of the forward pass, those of a block together
  OtherTensors other_tensors = OtherTensors::refused;
};

/// A parameter of one model.
struct Parameter : TensorInfo {
  Role role = {};
  int64_t layer = 0;  ///< 0 outside blocks
  Orientation stored = Orientation::in_out;
  Packing packing = Packing::whole;

  /// The stored matrix; a vector has one row.
  int64_t rows() const { return shape.size() == 2 ? shape[0] : 1; }
  int64_t cols() const { return shape.back(); }
};

/// Every parameter of a model, by canonical name, with the shape in which it is stored, in the order of the forward
/// pass.
std::vector<Parameter> parameters_of(const Architecture& architecture);
/// A parameter of a block. Throws ShapeError for a role that the model does not have.
Parameter parameter_at(const Architecture& architecture, WeightId weight);
/// The canonical name of a parameter, without Family::body ("h.3.mlp.c_proj.weight"). Throws ShapeError for a role that
/// the model does not have.
std::string parameter_name(const Architecture& architecture, Role role, int64_t layer = 0);
inline std::string parameter_name(const Architecture& architecture, WeightId weight) {
  return parameter_name(architecture, weight.role, weight.layer);
}
/// Its name in the files that transformers writes ("transformer.h.3.mlp.c_proj.weight").
std::string published_name(const Architecture& architecture, Role role, int64_t layer = 0);
/// The same of a tensor that holds a parameter of that role or a part of it, from the tensor's canonical name.
std::string published_name(const Architecture& architecture, Role role, std::string_view canonical);
/// The module that has it there, as hyper-parameters and exports name it ("transformer.h.3.mlp.c_proj").
std::string published_module(const Architecture& architecture, Role role, int64_t layer);
/// The matrix or bias of a block of that name, canonical or published; nothing where there is none.
std::optional<WeightId> weight_named(const Architecture& architecture, std::string_view name);

}  // namespace loci
