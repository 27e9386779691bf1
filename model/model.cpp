#include "model/model.h"

#include <numeric>
#include <optional>

#include "kernels/gemm.h"
#include "kernels/rows.h"
#include "model/families/families.h"
#include "runtime/error.h"

namespace loci {
namespace {

/// What keeps the parameters of a loaded model alive beside the mapped checkpoint: weights that had to be converted or
/// copied (fp64, unaligned data, another device).
struct LoadedWeights {
  std::vector<std::vector<std::byte>> copied;
  std::vector<std::vector<float>> converted;
  std::vector<DeviceArray<std::byte>> uploaded;
  std::optional<ConstantOperands> constants;
};

/// Promises that the matrices stay as they were loaded; edits are made on copies.
void promise_constant(Context& context, Parameters<const float>& parameters, const Architecture& architecture,
                      LoadedWeights& weights) {
  std::vector<StoredView> matrices{parameters.unembedding};
  visit_parameters(parameters, architecture, [&](const Parameter& parameter, auto& place) {
    if (kind_of(parameter.role) == RoleKind::matrix) matrices.push_back(stored_view(place));
  });
  weights.constants.emplace(context, matrices);
}

/// The bytes of a parameter on the host in the type that it has in memory: those of the mapped file, or a copy that
/// `weights` keeps.
std::span<const std::byte> host_bytes(const Checkpoint& checkpoint, const Parameter& parameter, StoredType type,
                                      LoadedWeights& weights) {
  if (type == StoredType::fp32) {
    std::vector<float> scratch;
    const std::span<const float> values = checkpoint.f32(parameter.name, scratch);
    // Moving the vector keeps its memory, so `values` stays valid.
    if (!scratch.empty()) weights.converted.push_back(std::move(scratch));
    return std::as_bytes(values);
  }
  std::vector<std::byte> scratch;
  const std::span<const std::byte> bytes = checkpoint.bytes(parameter.name, scratch);
  if (!scratch.empty()) {
    weights.copied.push_back(std::move(scratch));
    return bytes;
  }
  if (reinterpret_cast<uintptr_t>(bytes.data()) % alignof(uint16_t) == 0) return bytes;
  return weights.copied.emplace_back(bytes.begin(), bytes.end());
}

/// A parameter in device memory; with `broadcast` rank 0 reads it and all have it then.
StoredView load_parameter(Context& context, const Checkpoint& checkpoint, const Parameter& parameter,
                          DeviceCommunicator* broadcast, LoadedWeights& weights) {
  const StoredType type = type_in_memory(parameter, checkpoint.dtype(parameter.name));
  const int64_t rows = parameter.rows(), cols = parameter.cols();
  if (context.on_cpu()) return {host_bytes(checkpoint, parameter, type, weights).data(), type, rows, cols, cols};
  DeviceArray<std::byte>& memory = weights.uploaded.emplace_back(context, rows * cols * stored_bytes(type));
  const auto size = static_cast<size_t>(memory.size());
  if (!broadcast || broadcast->ranks().is_root()) {
    LoadedWeights passing;  // on the host no longer than it takes to copy it
    context.copy_to_device(memory.data(), host_bytes(checkpoint, parameter, type, passing).data(), size);
  }
  if (broadcast) broadcast->broadcast(memory.data(), size, 0, "the broadcast of the weights");
  return {memory.data(), type, rows, cols, cols};
}

void check_shapes(Parameters<const float>& parameters, const Architecture& architecture) {
  require<ShapeError>(std::ssize(parameters.blocks) == architecture.layers, "{} blocks for {} layers",
                      parameters.blocks.size(), architecture.layers);
  const auto check = [&](std::string_view name, const StoredView& view, int64_t rows, int64_t cols) {
    require<ShapeError>(view.rows == rows && view.cols == cols, "parameter {} is [{}, {}], expected [{}, {}]", name,
                        view.rows, view.cols, rows, cols);
  };
  visit_parameters(parameters, architecture, [&](const Parameter& parameter, const auto& place) {
    check(parameter.name, stored_view(place), parameter.rows(), parameter.cols());
  });
  check("of the unembedding", parameters.unembedding, architecture.vocabulary, architecture.width);
}

}  // namespace

namespace {

/// fp32 copy of a stored matrix, [rows, cols].
Tensor fp32_copy(Context& context, const StoredView& stored) {
  std::vector<int32_t> all_rows(static_cast<size_t>(stored.rows));
  std::iota(all_rows.begin(), all_rows.end(), 0);
  Tensor copy(context, stored.rows, stored.cols);
  embed_rows(context, stored, {context, std::span<const int32_t>(all_rows)}, copy.view());
  return copy;
}

}  // namespace

std::vector<float> stored_to_host(Context& context, const StoredView& stored) {
  return stored.type == StoredType::fp32 ? to_host(context, stored.fp32()) : fp32_copy(context, stored).to_host();
}

StoredType type_in_memory(const Parameter& parameter, DType stored) {
  const RoleKind kind = kind_of(parameter.role);
  if (kind != RoleKind::matrix && kind != RoleKind::table) return StoredType::fp32;
  return stored == DType::f16 ? StoredType::fp16 : stored == DType::bf16 ? StoredType::bf16 : StoredType::fp32;
}

Parameters<const float> as_constant(Parameters<float>& parameters, const Architecture& architecture) {
  Parameters<const float> made;
  made.blocks.resize(parameters.blocks.size());
  visit_parameters(parameters, architecture, [&](const Parameter& parameter, View& view) {
    with_parameter(made, parameter.role, parameter.layer,
                   [&](auto& place) { place_at(place, StoredView(view), parameter.stored); });
  });
  if (architecture.tied) made.unembedding = made.token_embedding;
  return made;
}

Model Model::load(Context& context, const std::filesystem::path& dir) {
  return load(context, std::make_shared<const Checkpoint>(Checkpoint::open(dir)), nullptr);
}

Model Model::load(Context& context, const std::filesystem::path& dir, DeviceCommunicator& ranks) {
  auto checkpoint = std::make_shared<Checkpoint>(Checkpoint::open(dir));
  Communicator& communicator = ranks.ranks();
  if (communicator.size() == 1) return load(context, std::move(checkpoint), nullptr);
  const std::string own_config = architecture_to_json(checkpoint->config()).dump();
  std::string config = own_config;
  communicator.broadcast(config, 0, "the broadcast of the model's configuration");
  require<InputError>(config == own_config,
                      "{}: config.json on rank {} is not that of rank 0; give all ranks one folder", dir.string(),
                      communicator.rank());
  std::string hash = communicator.is_root() ? checkpoint->weights_sha256(&context.threads()) : "";
  communicator.broadcast(hash, 0, "the broadcast of the weights' hash");
  checkpoint->adopt_weights_sha256(std::move(hash));
  const bool all_on_gpus = communicator.agree(context.on_cpu() ? 1 : 0, "the agreement about weights") == 0;
  return load(context, std::move(checkpoint), all_on_gpus ? &ranks : nullptr);
}

Model Model::load(Context& context, std::shared_ptr<const Checkpoint> checkpoint, DeviceCommunicator* broadcast) {
  const Architecture& config = checkpoint->config();
  auto weights = std::make_shared<LoadedWeights>();
  Parameters<const float> parameters;
  parameters.blocks.resize(static_cast<size_t>(config.layers));
  visit_parameters(parameters, config, [&](const Parameter& parameter, auto& place) {
    place_at(place, load_parameter(context, *checkpoint, parameter, broadcast, *weights), parameter.stored);
  });
  if (config.tied) parameters.unembedding = parameters.token_embedding;
  promise_constant(context, parameters, config, *weights);
  Model model(config, std::move(parameters), std::move(weights));
  model.checkpoint_ = std::move(checkpoint);
  return model;
}

Model::Model(Architecture config, Parameters<const float> parameters, std::shared_ptr<void> storage)
    : config_(std::move(config)), parameters_(std::move(parameters)), storage_(std::move(storage)) {
  config_.check("model");
  if (config_.tied && parameters_.unembedding.data == nullptr) parameters_.unembedding = parameters_.token_embedding;
  check_shapes(parameters_, config_);
}

const Checkpoint& Model::checkpoint() const {
  require<Error>(checkpoint_ != nullptr, "this model was made in memory and has no checkpoint");
  return *checkpoint_;
}

View Model::own_weight(Context& context, WeightId id) {
  require<ShapeError>(id.layer >= 0 && id.layer < config_.layers, "layer {} of a model with {} layers", id.layer,
                      config_.layers);
  std::shared_ptr<Tensor>& own = own_[id];
  // A copied model shares its edits with the one it was copied from until either is edited again.
  if (!own || own.use_count() > 1)
    with_parameter(parameters_, id.role, id.layer, [&](auto& place) {
      own = std::make_shared<Tensor>(fp32_copy(context, stored_view(place)));
      place_at(place, StoredView(own->view()), parameter_at(config_, id).stored);
    });
  return own->view();
}

void Model::set_weight(Context& context, WeightId id, ConstView weight) {
  const View own = own_weight(context, id);
  require<ShapeError>(weight.rows == own.rows && weight.cols == own.cols, "{} is [{}, {}], expected [{}, {}]",
                      parameter_name(config_, id), weight.rows, weight.cols, own.rows, own.cols);
  for (int64_t r = 0; r < weight.rows; ++r)
    context.copy_on_device(own.row(r), weight.row(r), sizeof(float) * static_cast<size_t>(weight.cols));
}

void Model::add_low_rank(Context& context, WeightId id, int64_t rank, std::span<const float> keys,
                         std::span<const float> values) {
  const View own = own_weight(context, id);
  const WeightView& weight = weight_of(parameters_, id);
  require<ShapeError>(std::ssize(keys) == weight.in * rank && std::ssize(values) == weight.out * rank,
                      "{} keys and {} values of rank {} for {} ({} to {})", keys.size(), values.size(), rank,
                      parameter_name(config_, id), weight.in, weight.out);
  const Tensor k = Tensor::from_host(context, keys, rank, weight.in);
  const Tensor v = Tensor::from_host(context, values, rank, weight.out);
  const bool in_out = weight.orientation == Orientation::in_out;
  gemm(context, Transpose::yes, in_out ? k.view() : v.view(), Transpose::no, in_out ? v.view() : k.view(), own,
       Write::accumulate);
}

namespace {

/// The rows of a matrix, which may be empty, and `more` rows of its width.
Tensor grown(Context& context, const Tensor& rows, std::span<const float> more, int64_t width) {
  Tensor made(context, rows.rows() + std::ssize(more) / width, width);
  if (rows.rows() > 0) context.copy_on_device(made.data(), rows.data(), sizeof(float) * (rows.rows() * width));
  context.copy_to_device(made.row(rows.rows()), more.data(), more.size_bytes());
  return made;
}

}  // namespace

void Model::add_neurons(Context& context, int64_t layer, Activation activation, std::span<const float> keys,
                        std::span<const float> bias, std::span<const float> values) {
  const int64_t d = config_.width, n = std::ssize(bias);
  require<ShapeError>(layer >= 0 && layer < config_.layers, "neurons in layer {} of a model with {} layers", layer,
                      config_.layers);
  require<ShapeError>(std::ssize(keys) == n * d && std::ssize(values) == n * d,
                      "{} neurons with {} and {} numbers for keys and values of width {}", n, keys.size(),
                      values.size(), d);
  if (n == 0) return;
  std::shared_ptr<const OwnNeurons>& own = neurons_[{layer, activation}];
  // A copied model shares its neurons with the one it was copied from.
  const auto before = own ? own : std::make_shared<const OwnNeurons>();
  own = std::make_shared<const OwnNeurons>(OwnNeurons{grown(context, before->keys, keys, d),
                                                      grown(context, before->bias, bias, 1),
                                                      grown(context, before->values, values, d)});
  std::vector<NeuronParameters>& groups = parameters_.blocks[layer].neurons;
  auto group = std::ranges::find(groups, activation, &NeuronParameters::activation);
  if (group == groups.end()) group = groups.insert(group, {.activation = activation});
  group->keys = own->keys.view();
  group->bias = {own->bias.data(), 1, own->bias.rows()};
  group->values = own->values.view();
}

}  // namespace loci
