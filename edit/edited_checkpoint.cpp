#include "edit/edited_checkpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <map>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "runtime/error.h"
#include "runtime/io/safetensors.h"
#include "runtime/jobs/output_lock.h"
#include "runtime/wording.h"

namespace loci {
namespace {

namespace fs = std::filesystem;

/// Held while a folder is written: two jobs would mix their files.
constexpr const char* kLockFile = ".loci_export.lock";

/// Every parameter of a checkpoint on the host, some of them replaced.
struct HostWeights {
  std::map<std::string, std::vector<float>> owned;
  std::map<std::string, std::span<const float>> tensors;

  /// `replaced` may have other shapes than the checkpoint's.
  HostWeights(const Checkpoint& checkpoint, std::map<std::string, std::vector<float>> replaced)
      : owned(std::move(replaced)) {
    for (const Parameter& parameter : parameters_of(checkpoint.config())) {
      const auto found = owned.find(parameter.name);
      if (found != owned.end()) {
        tensors[parameter.name] = found->second;
        continue;
      }
      std::vector<float> scratch;
      tensors[parameter.name] = checkpoint.f32(parameter.name, scratch);
      if (!scratch.empty()) {
        owned[parameter.name] = std::move(scratch);
        tensors[parameter.name] = owned[parameter.name];
      }
    }
  }
};

// --- Neurons beside an MLP -------------------------------------------------------------------------------------------
// Checkpoints give all MLPs of a model the same width. So the hidden layers of all of them get as many neurons as the
// layer with the most of them was given; those that it was not given do nothing.

constexpr const char* kMlpWidth = "mlp_width";

/// The parameters of an MLP that have an extent as wide as its hidden layer.
constexpr std::array<Role, 3> kHiddenRoles = {Role::up_weight, Role::up_bias, Role::down_weight};

/// Whether a hidden neuron is a row of this matrix as it is stored, or else a column.
bool neurons_are_rows(const Parameter& parameter) {
  return parameter.role == Role::down_weight
             ? parameter.stored == Orientation::in_out
             : parameter.role == Role::up_weight && parameter.stored == Orientation::out_in;
}

/// A parameter whose hidden layer has so many neurons: the first of those that it has, then `more` (one vector each),
/// then some that are 0.
std::vector<float> with_neurons(const Parameter& parameter, std::span<const float> values, int64_t hidden,
                                std::span<const float> more) {
  const bool as_rows = neurons_are_rows(parameter);
  const int64_t rows = parameter.rows(), cols = parameter.cols(), across = as_rows ? cols : rows;
  const int64_t before = as_rows ? rows : cols, kept = std::min(before, hidden);
  std::vector<float> made(static_cast<size_t>(across * hidden));
  const auto neuron = [&](int64_t n, int64_t i) -> float& { return made[as_rows ? n * across + i : i * hidden + n]; };
  for (int64_t n = 0; n < kept; ++n)
    for (int64_t i = 0; i < across; ++i) neuron(n, i) = values[as_rows ? n * cols + i : i * cols + n];
  for (int64_t n = 0; n < std::ssize(more) / across; ++n)
    for (int64_t i = 0; i < across; ++i) neuron(before + n, i) = more[n * across + i];
  return made;
}

int64_t most_neurons(const Model& model) {
  int64_t most = 0;
  for (const auto& block : model.parameters().blocks) {
    int64_t count = 0;
    for (const NeuronParameters& group : block.neurons) count += group.keys.rows;
    most = std::max(most, count);
  }
  return most;
}

/// Replaces the MLPs' parameters by wider ones that hold the neurons beside them.
void widen_mlps(Context& context, const Model& model, int64_t hidden,
                std::map<std::string, std::vector<float>>& edited) {
  const Architecture& config = model.config();
  const std::vector<Parameter> parameters = parameters_of(config);
  require<InputError>(
      config.mlp == Mlp::plain && std::ranges::find(parameters, Role::up_bias, &Parameter::role) != parameters.end(),
      "{}: the edits have neurons beside MLPs, which a checkpoint of {} has no room for; keep them as a "
      "file of edits",
      option("export"), config.family->title);
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    std::map<Role, std::vector<float>> more;
    for (const NeuronParameters& group : model.parameters().blocks[layer].neurons) {
      require<InputError>(group.activation == config.activation,
                          "{}: the edits have neurons with the activation function {}, but the model's MLPs have {}; "
                          "keep them as a file of edits",
                          option("export"), activation_name(group.activation), activation_name(config.activation));
      more = {{Role::up_weight, to_host(context, group.keys)},
              {Role::up_bias, to_host(context, group.bias)},
              {Role::down_weight, to_host(context, group.values)}};
    }
    for (const Role role : kHiddenRoles) {
      const Parameter parameter = parameter_at(config, {role, layer});
      std::vector<float> scratch;
      const auto changed = edited.find(parameter.name);
      const std::span<const float> values =
          changed != edited.end() ? changed->second : model.checkpoint().f32(parameter.name, scratch);
      edited[parameter.name] = with_neurons(parameter, values, hidden, more[role]);
    }
  }
}

void write_originals(const Checkpoint& checkpoint, const std::set<WeightId>& weights, const fs::path& path) {
  std::map<std::string, std::vector<float>> scratch;
  std::vector<TensorData> tensors;
  for (const WeightId weight : weights) {
    const Parameter parameter = parameter_at(checkpoint.config(), weight);
    const std::span<const float> values = checkpoint.f32(parameter.name, scratch[parameter.name]);
    tensors.push_back({{parameter.name, DType::f32, parameter.shape}, std::as_bytes(values)});
  }
  write_safetensors(path, tensors,
                    {{"weights_sha256", checkpoint.weights_sha256()},
                     {"stored_types", checkpoint.stored_types()},
                     {kMlpWidth, std::to_string(checkpoint.config().mlp_width)}});
}

/// Of the model that one with `lineage` was made from: weights `original`, which have the hash `restored` in fp32.
Lineage reverted_lineage(const Lineage& lineage, const std::string& original, const std::string& restored) {
  Lineage made{{restored, ""}};
  const auto at = std::ranges::find(lineage.ancestors, ModelState{original, ""}, &Ancestor::state);
  if (at == lineage.ancestors.end()) return made;
  if (restored != original) made.ancestors.push_back({{original, ""}, {}});
  made.ancestors.insert(made.ancestors.end(), at + 1, lineage.ancestors.end());
  return made;
}

std::vector<float> copy_floats(std::span<const std::byte> bytes) {
  std::vector<float> values(bytes.size() / sizeof(float));
  std::memcpy(values.data(), bytes.data(), values.size() * sizeof(float));
  return values;
}

std::string metadata_of(const SafetensorsFile& file, const std::string& key) {
  const auto found = file.metadata().find(key);
  require<InputError>(found != file.metadata().end(), "{}: the metadata \"{}\" is missing", file.path().string(), key);
  return found->second;
}

}  // namespace

void require_free_folder(const fs::path& dir, const fs::path& source, OnExistingCheckpoint on_existing) {
  std::error_code error;
  require<InputError>(!fs::equivalent(dir, source, error), "{} {}: is the folder of the model itself; choose another",
                      option("export"), dir.string());
  require<InputError>(!fs::exists(dir) || fs::is_directory(dir), "{} {}: is not a folder", option("export"),
                      dir.string());
  require<InputError>(!fs::exists(dir / "model.safetensors.index.json"),
                      "{} {}: holds a sharded model; choose another folder", option("export"), dir.string());
  require<InputError>(on_existing == OnExistingCheckpoint::replace || !fs::exists(dir / "model.safetensors"),
                      "{0} {1}: holds a model already; give another folder, or replace it with {2} (edits that were "
                      "made before: {3} FILE.h5 {0} DIR {2})",
                      option("export"), dir.string(), option("overwrite"), option("edits"));
}

void write_edited_checkpoint(Context& context, const Model& model, const EditChain& chain, const fs::path& dir,
                             OnExistingCheckpoint on_existing) {
  const Checkpoint& checkpoint = model.checkpoint();
  require_free_folder(dir, checkpoint.dir(), on_existing);
  const std::set<WeightId> changed = chain.weights();
  Parameters<const float> parameters = model.parameters();
  std::map<std::string, std::vector<float>> edited;
  for (const WeightId weight : changed)
    with_parameter(parameters, weight.role, weight.layer, [&](const auto& place) {
      edited[parameter_name(checkpoint.config(), weight)] = stored_to_host(context, stored_view(place));
    });
  Architecture config = checkpoint.config();
  if (const int64_t neurons = most_neurons(model); neurons > 0) {
    config.mlp_width += neurons;
    widen_mlps(context, model, config.mlp_width, edited);
  }
  const HostWeights weights(checkpoint, std::move(edited));
  const OutputLock lock(dir / kLockFile, dir);
  require_free_folder(dir, checkpoint.dir(), on_existing);  // still
  // First, so that a folder with an edited model always knows the way back.
  write_originals(checkpoint, changed, dir / kOriginalsFile);
  const Lineage before = chain.on(model);
  Lineage after{{weights_sha256_of(config, weights.tensors, dir), ""}, {{before.state, {}}}};
  after.ancestors.insert(after.ancestors.end(), before.ancestors.begin(), before.ancestors.end());
  write_lineage(dir, after);
  write_checkpoint(dir, config, weights.tensors, checkpoint.dir(), DType::f32, checkpoint.stored_names());
}

namespace {

/// Takes the neurons away again that widen_mlps() has added, from the MLPs that are not `restored`.
void narrow_mlps(const Checkpoint& checkpoint, int64_t hidden, std::map<std::string, std::vector<float>>& restored) {
  for (int64_t layer = 0; layer < checkpoint.config().layers; ++layer)
    for (const Role role : kHiddenRoles) {
      const Parameter parameter = parameter_at(checkpoint.config(), {role, layer});
      if (restored.contains(parameter.name)) continue;
      std::vector<float> scratch;
      restored[parameter.name] = with_neurons(parameter, checkpoint.f32(parameter.name, scratch), hidden, {});
    }
}

/// The architecture of the model that an edited one was made from.
Architecture architecture_before(const Architecture& edited, const SafetensorsFile& originals) {
  Architecture config = edited;
  if (!originals.metadata().contains(kMlpWidth)) return config;  // written before edits could add neurons
  const std::string width = metadata_of(originals, kMlpWidth);
  const auto result = std::from_chars(width.data(), width.data() + width.size(), config.mlp_width);
  require<InputError>(result.ec == std::errc() && result.ptr == width.data() + width.size() && config.mlp_width > 0 &&
                          config.mlp_width <= edited.mlp_width,
                      "{}: the metadata \"{}\" is \"{}\", but the edited model's is {}", originals.path().string(),
                      kMlpWidth, width, edited.mlp_width);
  return config;
}

}  // namespace

void write_reverted_checkpoint(const fs::path& edited_dir, const fs::path& dir, OnExistingCheckpoint on_existing) {
  const fs::path path = edited_dir / kOriginalsFile;
  require<InputError>(fs::exists(path),
                      "{}: holds no {}, so it was not written by loci edit {}; the original checkpoint is the way back",
                      edited_dir.string(), kOriginalsFile, option("export"));
  const Checkpoint checkpoint = Checkpoint::open(edited_dir);
  const SafetensorsFile originals(path);
  const Architecture config = architecture_before(checkpoint.config(), originals);
  std::map<std::string, std::vector<float>> restored;
  for (const std::string& name : originals.names()) {
    const TensorInfo& info = originals.at(name);
    const std::optional<WeightId> weight = weight_named(checkpoint.config(), name);
    require<InputError>(weight.has_value(), "{}: {} is not a matrix of the model in {}", path.string(), name,
                        edited_dir.string());
    const std::vector<int64_t> shape = parameter_at(config, *weight).shape;
    require<InputError>(info.dtype == DType::f32 && info.shape == shape, "{}: {} is {} {}, expected F32 {}",
                        path.string(), name, dtype_name(info.dtype), shape_text(info.shape), shape_text(shape));
    restored[name] = copy_floats(originals.bytes(name));
  }
  if (config.mlp_width < checkpoint.config().mlp_width) narrow_mlps(checkpoint, config.mlp_width, restored);
  const HostWeights weights(checkpoint, std::move(restored));
  // Weights of other types were widened to fp32, so their hash says nothing here.
  const std::string expected = metadata_of(originals, "weights_sha256");
  const std::string found = weights_sha256_of(config, weights.tensors, edited_dir);
  if (metadata_of(originals, "stored_types") == "F32") {
    require<InputError>(found == expected,
                        "{}: the model was changed after its export (restored weights {:.12}, original {:.12}), so it "
                        "cannot be reverted",
                        edited_dir.string(), found, expected);
  }
  const OutputLock lock(dir / kLockFile, dir);
  require_free_folder(dir, edited_dir, on_existing);
  write_lineage(dir, reverted_lineage(read_lineage(edited_dir, checkpoint.weights_sha256()), expected, found));
  write_checkpoint(dir, config, weights.tensors, edited_dir, DType::f32, checkpoint.stored_names());
}

}  // namespace loci
