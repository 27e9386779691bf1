#include "model/model.h"

#include <map>
#include <optional>

#include "kernels/gemm.h"
#include "runtime/error.h"

namespace loci {
namespace {

/// What keeps the parameters of a loaded model alive beside the mapped checkpoint: weights that had to be converted or
/// copied (other types than fp32, unaligned data, another device).
struct LoadedWeights {
  std::vector<std::vector<float>> converted;
  std::vector<Tensor> uploaded;
  std::optional<ConstantOperands> constants;
};

/// Promises that the matrices stay as they were loaded; edits are made on copies.
void promise_constant(Context& context, const Parameters<const float>& parameters, LoadedWeights& weights) {
  std::vector<ConstView> matrices{parameters.unembedding};
  for (const BlockParameters<const float>& block : parameters.blocks)
    matrices.insert(matrices.end(), {block.qkv_weight, block.out_weight, block.up_weight, block.down_weight});
  weights.constants.emplace(context, matrices);
}

/// A parameter that rank 0 reads from its checkpoint and all have in device memory then.
ConstView broadcast_parameter(Context& context, const Checkpoint& checkpoint, const TensorInfo& info,
                              DeviceCommunicator& ranks, LoadedWeights& weights) {
  const int64_t rows = info.shape.size() == 2 ? info.shape[0] : 1;
  const int64_t cols = info.shape.back();
  Tensor& tensor = weights.uploaded.emplace_back(context, rows, cols);
  const size_t bytes = sizeof(float) * static_cast<size_t>(rows * cols);
  if (ranks.ranks().is_root()) {
    std::vector<float> scratch;
    context.copy_to_device(tensor.data(), checkpoint.f32(info.name, scratch).data(), bytes);
  }
  ranks.broadcast(tensor.data(), bytes, 0, "the broadcast of the weights");
  return std::as_const(tensor).view();
}

ConstView load_parameter(Context& context, const Checkpoint& checkpoint, const TensorInfo& info,
                         LoadedWeights& weights) {
  const int64_t rows = info.shape.size() == 2 ? info.shape[0] : 1;
  const int64_t cols = info.shape.back();
  std::vector<float> scratch;
  const std::span<const float> values = checkpoint.f32(info.name, scratch);
  if (context.device().type != DeviceType::cpu) {
    weights.uploaded.push_back(Tensor::from_host(context, values, rows, cols));
    return std::as_const(weights.uploaded.back()).view();
  }
  // Moving the vector keeps its memory, so `values` stays valid.
  if (!scratch.empty()) weights.converted.push_back(std::move(scratch));
  return {values.data(), rows, cols};
}

void check_shapes(Parameters<const float>& parameters, const GptConfig& config) {
  std::map<std::string, std::vector<int64_t>> wanted;
  for (TensorInfo& info : gpt_parameters(config)) wanted.emplace(info.name, info.shape);
  require<ShapeError>(std::ssize(parameters.blocks) == config.layers, "{} blocks for {} layers",
                      parameters.blocks.size(), config.layers);
  const auto check = [&](const std::string& name, ConstView view) {
    const std::vector<int64_t>& shape = wanted.at(name);
    const int64_t rows = shape.size() == 2 ? shape[0] : 1;
    require<ShapeError>(view.rows == rows && view.cols == shape.back(), "parameter {} is [{}, {}], expected [{}, {}]",
                        name, view.rows, view.cols, rows, shape.back());
  };
  visit_parameters(parameters, config, check);
  check("wte.weight", parameters.unembedding);
}

}  // namespace

Model Model::load(Context& context, const std::filesystem::path& dir) {
  return load(context, std::make_shared<const Checkpoint>(Checkpoint::open(dir)), nullptr);
}

Model Model::load(Context& context, const std::filesystem::path& dir, DeviceCommunicator& ranks) {
  auto checkpoint = std::make_shared<Checkpoint>(Checkpoint::open(dir));
  Communicator& communicator = ranks.ranks();
  if (communicator.size() == 1) return load(context, std::move(checkpoint), nullptr);
  const std::string own_config = gpt_config_to_json(checkpoint->config()).dump();
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
  const GptConfig& config = checkpoint->config();
  auto weights = std::make_shared<LoadedWeights>();
  std::map<std::string, ConstView> views;
  for (const TensorInfo& info : gpt_parameters(config))
    views.emplace(info.name, broadcast ? broadcast_parameter(context, *checkpoint, info, *broadcast, *weights)
                                       : load_parameter(context, *checkpoint, info, *weights));

  Parameters<const float> parameters;
  parameters.blocks.resize(static_cast<size_t>(config.layers));
  visit_parameters(parameters, config, [&](const std::string& name, ConstView& view) { view = views.at(name); });
  if (config.tied) parameters.unembedding = parameters.token_embedding;
  promise_constant(context, parameters, *weights);
  Model model(config, std::move(parameters), std::move(weights));
  model.checkpoint_ = std::move(checkpoint);
  return model;
}

Model::Model(GptConfig config, Parameters<const float> parameters, std::shared_ptr<void> storage)
    : config_(config),
      parameters_(std::move(parameters)),
      storage_(std::move(storage)),
      edited_down_(static_cast<size_t>(config.layers)) {
  config_.check("model");
  if (config_.tied && parameters_.unembedding.data == nullptr) parameters_.unembedding = parameters_.token_embedding;
  check_shapes(parameters_, config_);
}

const Checkpoint& Model::checkpoint() const {
  require<Error>(checkpoint_ != nullptr, "this model was made in memory and has no checkpoint");
  return *checkpoint_;
}

Tensor& Model::own_down_weight(Context& context, int64_t layer) {
  require<ShapeError>(layer >= 0 && layer < config_.layers, "layer {} of a model with {} layers", layer,
                      config_.layers);
  std::shared_ptr<Tensor>& slot = edited_down_[layer];
  ConstView& weight = parameters_.blocks[layer].down_weight;
  // A copied model shares its edits with the one it was copied from until either is edited again.
  if (!slot || slot.use_count() > 1) {
    auto own = std::make_shared<Tensor>(context, weight.rows, weight.cols);
    for (int64_t r = 0; r < weight.rows; ++r)
      context.copy_on_device(own->row(r), weight.row(r), sizeof(float) * static_cast<size_t>(weight.cols));
    slot = std::move(own);
    weight = std::as_const(*slot).view();
  }
  return *slot;
}

void Model::set_down_weight(Context& context, int64_t layer, ConstView weight) {
  require<ShapeError>(weight.rows == config_.mlp_width && weight.cols == config_.width,
                      "down projection is [{}, {}], expected [{}, {}]", weight.rows, weight.cols, config_.mlp_width,
                      config_.width);
  Tensor& own = own_down_weight(context, layer);
  for (int64_t r = 0; r < weight.rows; ++r)
    context.copy_on_device(own.row(r), weight.row(r), sizeof(float) * static_cast<size_t>(weight.cols));
}

void Model::add_rank_one(Context& context, int64_t layer, std::span<const float> u, std::span<const float> v) {
  require<ShapeError>(std::ssize(u) == config_.mlp_width && std::ssize(v) == config_.width,
                      "u has {} and v {} values, expected {} and {}", u.size(), v.size(), config_.mlp_width,
                      config_.width);
  Tensor& own = own_down_weight(context, layer);
  const Tensor u_row = Tensor::from_host(context, u, 1, config_.mlp_width);
  const Tensor v_row = Tensor::from_host(context, v, 1, config_.width);
  gemm(context, Transpose::yes, u_row.view(), Transpose::no, v_row.view(), own.view(), Write::accumulate);
}

}  // namespace loci
