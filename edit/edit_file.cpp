#include "edit/edit_file.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <set>

#include "model/families/families.h"
#include "runtime/error.h"
#include "runtime/io/hdf5_probe.h"
#include "runtime/jobs/provenance.h"
#include "runtime/wording.h"

namespace loci {
namespace {

constexpr const char* kStateGroup = "/state";
/// Columns of a loss curve without the target's probability, which stands beside it except in files of GPT-2: there it
/// is the last column, as it has been since the first version.
constexpr int64_t kLossColumns = 4;
constexpr const char* kTargetProbability = "target_probability";
constexpr const char* kWeightUpdate = "weight";
constexpr const char* kNeuronsUpdate = "neurons";

std::vector<float> read_vector(const H5File& file, const std::string& group, const char* name) {
  const std::string path = group + "/" + name;
  std::vector<float> values = read_dataset<float>(file, path, {kAnyExtent}).values;
  const bool finite = std::all_of(values.begin(), values.end(), [](float x) { return std::isfinite(x); });
  require<InputError>(finite, "{}: {} holds values that are not finite", file.path().string(), path);
  return values;
}

void require_width(const H5File& file, const std::string& group, const char* name, size_t found, size_t expected) {
  require<InputError>(found == expected, "{}: {}/{} has {} values, expected {}", file.path().string(), group, name,
                      found, expected);
}

/// None where the method of an edit with updates follows no loss.
std::vector<LossRow> read_loss_curve(const H5File& file, const std::string& group) {
  const std::string path = group + "/loss_curve";
  if (has_attribute(file, group, "batch") && !h5_exists(file, path)) return {};
  const H5Array<double> curve = read_dataset<double>(file, path, {kAnyExtent, kAnyExtent});
  const int64_t steps = curve.shape[0], columns = curve.shape[1];
  require<InputError>(steps > 0, "{}: {} is empty", file.path().string(), path);
  require<InputError>(columns == kLossColumns || columns == kLossColumns + 1,
                      "{}: {} has {} columns, expected {} or {}", file.path().string(), path, columns, kLossColumns,
                      kLossColumns + 1);
  std::vector<double> beside;
  if (columns == kLossColumns) beside = read_dataset<double>(file, group + "/" + kTargetProbability, {steps}).values;
  std::vector<LossRow> rows;
  for (int64_t i = 0; i < steps; ++i) {
    const double* row = curve.values.data() + i * columns;
    rows.push_back({row[0], row[1], row[2], row[3], beside.empty() ? row[4] : beside[i]});
  }
  return rows;
}

EditRequest read_request(const H5File& file, const std::string& group) {
  return {.case_id = read_int_attribute(file, group, "case_id"),
          .prompt = read_string_attribute(file, group, "prompt"),
          .subject = read_string_attribute(file, group, "subject"),
          .target_new = read_string_attribute(file, group, "target_new"),
          .target_true = read_string_attribute(file, group, "target_true")};
}

int64_t read_layer(const H5File& file, const std::string& group) {
  const int64_t layer = read_int_attribute(file, group, "layer");
  require<InputError>(layer >= 0, "{}: attribute \"layer\" of {} is {}", file.path().string(), group, layer);
  return layer;
}

}  // namespace

std::string edit_group(int64_t index) { return fmt::format("/edits/{}", index); }

std::string_view edit_mode_name(EditMode mode) { return mode == EditMode::sequential ? "sequential" : "independent"; }

namespace {

// --- Writing ---------------------------------------------------------------------------------------------------------

void write_array(H5File& file, const std::string& path, std::span<const float> values, std::string_view long_name,
                 std::vector<int64_t> shape = {}) {
  if (shape.empty()) shape = {std::ssize(values)};
  write_dataset<float>(file, path, values, shape, {.units = "1", .long_name = std::string(long_name)});
}

void write_loss_curve(H5File& file, const std::string& group, const Architecture& architecture,
                      std::span<const LossRow> rows) {
  const bool inside = architecture.family == &gpt2();
  std::vector<std::string> columns = {"total", "target_nll", "kl", "decay"};
  std::vector<double> curve, probabilities;
  for (const LossRow& row : rows) {
    curve.insert(curve.end(), {row.total, row.target, row.essence, row.decay});
    (inside ? curve : probabilities).push_back(row.probability);
  }
  if (inside)
    columns.emplace_back(kTargetProbability);
  else
    write_dataset<double>(file, group + "/" + kTargetProbability, probabilities, {std::ssize(rows)},
                          {.units = "1", .long_name = "mean probability of the target at each step"});
  write_dataset<double>(
      file, group + "/loss_curve", curve, {std::ssize(rows), std::ssize(columns)},
      {.units = "nat",
       .long_name = inside ? "v* at each step: total loss, target NLL, KL, decay; mean probability of the target"
                           : "at each step: total loss, target NLL, KL, decay"});
  write_attribute(file, group + "/loss_curve", "columns", std::span<const std::string>(columns));
}

void write_edit(H5File& file, const std::string& group, const Architecture& architecture, const Edit& edit,
                double update_norm) {
  write_recorded(file, group, edit.recorded);
  if (!edit.loss_curve.empty()) write_loss_curve(file, group, architecture, edit.loss_curve);
  write_attribute(file, group, "case_id", edit.request.case_id);
  write_attribute(file, group, "prompt", edit.request.prompt);
  write_attribute(file, group, "subject", edit.request.subject);
  write_attribute(file, group, "target_new", edit.request.target_new);
  write_attribute(file, group, "target_true", edit.request.target_true);
  write_attribute(file, group, "method", edit.method);
  write_attribute(file, group, "layer", edit.layer);
  write_attribute(file, group, "update_norm", update_norm);
  if (edit.outcome) write_outcome(file, group, *edit.outcome);
}

/// Vectors as the columns of a factor [width, rank].
std::vector<float> columns_of(std::span<const float> vectors, int64_t rank) {
  const int64_t width = std::ssize(vectors) / rank;
  std::vector<float> columns(vectors.size());
  for (int64_t r = 0; r < rank; ++r)
    for (int64_t i = 0; i < width; ++i)
      columns[static_cast<size_t>(i * rank + r)] = vectors[static_cast<size_t>(r * width + i)];
  return columns;
}

void write_factor(H5File& file, const std::string& path, std::span<const float> vectors, int64_t rank) {
  write_dataset<float>(file, path, columns_of(vectors, rank), {std::ssize(vectors) / rank, rank},
                       {.units = "1", .long_name = "factor of the update of the stored matrix, left right^T"});
}

void write_values(H5File& file, const std::string& group, const LowRank& change, const Parameter& parameter) {
  const bool in_out = parameter.stored == Orientation::in_out;
  write_factor(file, group + "/left", in_out ? change.keys : change.values, change.rank);
  write_factor(file, group + "/right", in_out ? change.values : change.keys, change.rank);
}

void write_values(H5File& file, const std::string& group, const Dense& change, const Parameter& parameter) {
  if (!change.rows.empty())
    write_dataset<int64_t>(file, group + "/rows", change.rows, {std::ssize(change.rows)},
                           {.units = "1", .long_name = "rows of the stored matrix that change"});
  const int64_t rows = std::ssize(change.delta) / parameter.cols();
  write_dataset<float>(file, group + "/delta", change.delta,
                       parameter.shape.size() == 1 ? parameter.shape : std::vector<int64_t>{rows, parameter.cols()},
                       {.units = "1", .long_name = "update of the stored matrix"});
}

void write_values(H5File& file, const std::string& group, const Neurons& change, const Parameter&) {
  const int64_t n = change.count(), width = std::ssize(change.keys) / n;
  const auto write = [&](const char* name, std::span<const float> values, std::vector<int64_t> shape,
                         const char* long_name) {
    write_array(file, group + "/" + name, values, long_name, std::move(shape));
  };
  write("keys", change.keys, {n, width}, "K of neurons beside the MLP, mlp_out += f(x K^T + b) V");
  write("bias", change.bias, {n}, "b");
  write("values", change.values, {n, width}, "V");
  write_attribute(file, group, "activation", activation_name(change.activation));
}

void write_update(H5File& file, const std::string& group, const Architecture& architecture, const Change& change,
                  int64_t batch) {
  const WeightId weight = weight_of(change);
  const Parameter parameter = parameter_at(architecture, weight);
  const bool is_neurons = std::holds_alternative<Neurons>(change);
  create_group(file, group);
  std::visit([&](const auto& one) { write_values(file, group, one, parameter); }, change);
  write_attribute(file, group, "kind", is_neurons ? kNeuronsUpdate : kWeightUpdate);
  if (!is_neurons) {
    write_attribute(file, group, "parameter", published_name(architecture, weight.role, weight.layer));
    write_attribute(file, group, "shape", std::span<const int64_t>(parameter.shape));
  }
  write_attribute(file, group, "layer", weight.layer);
  write_attribute(file, group, "batch", batch);
}

std::string update_group(int64_t index) { return fmt::format("/updates/{}", index); }

int64_t count_of(const H5File& file, const std::string& group) {
  return h5_is_group(file, group) ? std::ssize(group_members(file, group)) : 0;
}

}  // namespace

void write_recorded(H5File& file, const std::string& group, std::span<const RecordedValues> recorded) {
  for (const RecordedValues& one : recorded) {
    const auto write = [&](const auto& values) {
      write_dataset(file, group + "/" + one.name, values,
                    one.shape.empty() ? std::vector<int64_t>{std::ssize(values)} : one.shape,
                    {.units = "1", .long_name = one.long_name});
    };
    if (!one.doubles.empty())
      write(one.doubles);
    else if (!one.integers.empty())
      write(one.integers);
    else
      write(one.values);
  }
}

void write_batches(H5File& file, const Architecture& architecture, std::span<const EditBatch> batches,
                   int64_t first_edit, int64_t first_batch) {
  int64_t edit_index = first_edit, batch_index = first_batch, update_index = count_of(file, "/updates");
  for (const EditBatch& batch : batches) {
    const double norm = norm_of(batch.changes);
    for (const Edit& edit : batch.edits) {
      const std::string group = edit_group(edit_index++);
      create_group(file, group);
      if (batch.is_rank_one) {
        const auto& change = std::get<LowRank>(batch.changes.at(0));
        write_array(file, group + "/u", change.keys, "direction of the update in the space of keys, W' = W + u v^T");
        write_array(file, group + "/v", change.values, "change of the value for a unit of k.u");
      } else {
        write_attribute(file, group, "batch", batch_index);
      }
      write_edit(file, group, architecture, edit, norm);
    }
    if (!batch.is_rank_one)
      for (const Change& change : batch.changes)
        write_update(file, update_group(update_index++), architecture, change, batch_index);
    ++batch_index;
  }
  if (!batches.empty()) write_recorded(file, kStateGroup, batches.back().state);
}

void append_batches(H5File& file, const H5File& shard) {
  for (const std::string& name : group_members(shard, "/edits"))
    copy_object(shard, "/edits/" + name, file, "/edits/" + name);
  const int64_t before = count_of(file, "/updates");
  for (int64_t i = 0; i < count_of(shard, "/updates"); ++i)
    copy_object(shard, update_group(i), file, update_group(before + i));
}

void copy_batches(const H5File& file, int64_t first, int64_t count, H5File& shard) {
  std::set<int64_t> batches;
  for (int64_t i = first; i < first + count; ++i) {
    copy_object(file, edit_group(i), shard, edit_group(i));
    if (has_attribute(file, edit_group(i), "batch")) batches.insert(read_int_attribute(file, edit_group(i), "batch"));
  }
  for (int64_t i = 0; i < count_of(file, "/updates"); ++i)
    if (batches.contains(read_int_attribute(file, update_group(i), "batch")))
      copy_object(file, update_group(i), shard, update_group(count_of(shard, "/updates")));
}

// --- Reading ---------------------------------------------------------------------------------------------------------

namespace {

/// What the rank-one form holds beside u and v.
struct RankOneData {
  const char* name;
  bool is_key;  ///< as wide as u, else as v
};
constexpr std::array<RankOneData, 4> kRankOneData = {
    {{"k_mean", true}, {"k_bare", true}, {"value_before", false}, {"value_star", false}}};

/// What the method recorded of an edit with updates.
std::vector<RecordedValues> read_recorded(const H5File& file, const std::string& group) {
  std::vector<RecordedValues> recorded;
  for (const std::string& name : group_members(file, group)) {
    const std::string path = group + "/" + name;
    if (name == "loss_curve" || name == kTargetProbability || h5_is_group(file, path) ||
        dataset_info(file, path).kind != H5Kind::floating)
      continue;
    H5Array<float> array = read_dataset<float>(file, path);
    recorded.push_back(
        {name, read_string_attribute(file, path, "long_name"), std::move(array.values), std::move(array.shape)});
  }
  return recorded;
}

Edit read_edit(const H5File& file, const std::string& group) {
  Edit edit;
  edit.loss_curve = read_loss_curve(file, group);
  edit.request = read_request(file, group);
  edit.method = read_string_attribute(file, group, "method");
  edit.layer = read_layer(file, group);
  edit.outcome = read_outcome(file, group);
  return edit;
}

EditBatch read_rank_one(const H5File& file, const std::string& group) {
  Edit edit = read_edit(file, group);
  LowRank change{{Role::down_weight, edit.layer}, 1, read_vector(file, group, "u"), read_vector(file, group, "v")};
  for (const RankOneData& data : kRankOneData) {
    std::vector<float> values = read_vector(file, group, data.name);
    require_width(file, group, data.name, values.size(), data.is_key ? change.keys.size() : change.values.size());
    edit.recorded.push_back({data.name, {}, std::move(values)});
  }
  EditBatch batch;
  batch.edits.push_back(std::move(edit));
  batch.changes.emplace_back(std::move(change));
  batch.is_rank_one = true;
  return batch;
}

/// Finite values of this shape, where kAnyExtent stands for any extent.
H5Array<float> read_finite(const H5File& file, const std::string& path, const std::vector<int64_t>& shape) {
  H5Array<float> array = read_dataset<float>(file, path, shape);
  const bool finite = std::ranges::all_of(array.values, [](float x) { return std::isfinite(x); });
  require<InputError>(finite, "{}: {} holds values that are not finite", file.path().string(), path);
  return array;
}

/// The columns of a factor, one after the other.
std::vector<float> vectors_of(const H5Array<float>& factor) { return columns_of(factor.values, factor.shape[0]); }

Change read_neurons(const H5File& file, const std::string& group, const Architecture& architecture) {
  const std::string name = read_string_attribute(file, group, "activation");
  const std::optional<Activation> activation = value_named(name, kActivationNames);
  require<InputError>(activation.has_value(), "{}: attribute \"activation\" of {} is \"{}\", which is not known",
                      file.path().string(), group, name);
  H5Array<float> keys = read_finite(file, group + "/keys", {kAnyExtent, architecture.width});
  const int64_t n = keys.shape[0];
  return Neurons{{Role::down_weight, read_layer(file, group)},
                 *activation,
                 std::move(keys.values),
                 read_finite(file, group + "/bias", {n}).values,
                 read_finite(file, group + "/values", {n, architecture.width}).values};
}

Update read_update(const H5File& file, int64_t index, const Architecture& architecture) {
  const std::string group = update_group(index), place = file.path().string() + ": " + group;
  require<InputError>(h5_is_group(file, group), "{} is missing", place);
  const std::string kind =
      has_attribute(file, group, "kind") ? read_string_attribute(file, group, "kind") : kWeightUpdate;
  if (kind == kNeuronsUpdate) {
    Update update{read_neurons(file, group, architecture), read_int_attribute(file, group, "batch")};
    check_fits(update.change, architecture, place);
    return update;
  }
  require<InputError>(kind == kWeightUpdate,
                      "{}: is of kind \"{}\", which this version of loci does not know; it applies changes of weights "
                      "and neurons",
                      place, kind);
  const std::string name = read_string_attribute(file, group, "parameter");
  const std::optional<WeightId> weight = weight_named(architecture, name);
  require<InputError>(weight.has_value(), "{}: changes \"{}\", which is not a matrix or bias of this model", place,
                      name);
  const Parameter parameter = parameter_at(architecture, *weight);
  Update update{.change = LowRank{}, .batch = read_int_attribute(file, group, "batch")};
  if (h5_exists(file, group + "/delta")) {
    Dense dense{*weight, {}, {}};
    if (h5_exists(file, group + "/rows"))
      dense.rows = read_dataset<int64_t>(file, group + "/rows", {kAnyExtent}).values;
    const int64_t rows = dense.rows.empty() ? parameter.rows() : std::ssize(dense.rows);
    dense.delta =
        read_finite(file, group + "/delta",
                    parameter.shape.size() == 1 ? parameter.shape : std::vector<int64_t>{rows, parameter.cols()})
            .values;
    update.change = std::move(dense);
  } else {
    const H5Array<float> left = read_finite(file, group + "/left", {parameter.rows(), kAnyExtent});
    const H5Array<float> right = read_finite(file, group + "/right", {parameter.cols(), left.shape[1]});
    const bool in_out = parameter.stored == Orientation::in_out;
    update.change =
        LowRank{*weight, left.shape[1], vectors_of(in_out ? left : right), vectors_of(in_out ? right : left)};
  }
  check_fits(update.change, architecture, place);
  return update;
}

std::vector<Update> read_updates(const H5File& file, const Architecture& architecture) {
  std::vector<Update> updates;
  for (int64_t i = 0; i < count_of(file, "/updates"); ++i) updates.push_back(read_update(file, i, architecture));
  return updates;
}

}  // namespace

std::vector<RecordedValues> read_state(const H5File& shard) {
  std::vector<RecordedValues> state;
  if (!h5_is_group(shard, kStateGroup)) return state;
  const std::string below = std::string(kStateGroup) + "/";
  for (const std::string& path : object_paths(shard)) {
    if (!path.starts_with(below) || h5_is_group(shard, path)) continue;
    RecordedValues one{path.substr(below.size()), read_string_attribute(shard, path, "long_name"), {}};
    const auto take = [&](auto array, auto& values) {
      values = std::move(array.values);
      one.shape = std::move(array.shape);
    };
    if (const DatasetInfo info = dataset_info(shard, path); info.kind == H5Kind::integer)
      take(read_dataset<int64_t>(shard, path), one.integers);
    else if (info.item_size == sizeof(double))
      take(read_dataset<double>(shard, path), one.doubles);
    else
      take(read_dataset<float>(shard, path), one.values);
    state.push_back(std::move(one));
  }
  return state;
}

EditReport read_edit_report(const H5File& file, int64_t index) {
  const std::string group = edit_group(index);
  const std::vector<LossRow> curve = read_loss_curve(file, group);
  return {.request = read_request(file, group),
          .layer = read_layer(file, group),
          .update_norm = has_attribute(file, group, "update_norm") ? read_double_attribute(file, group, "update_norm")
                                                                   : norm_of(read_rank_one(file, group).changes),
          .seconds = has_attribute(file, group, "seconds") ? read_double_attribute(file, group, "seconds") : 0,
          .steps = std::ssize(curve),
          .first_loss = curve.empty() ? LossRow{} : curve.front(),
          .last_loss = curve.empty() ? LossRow{} : curve.back(),
          .outcome = read_outcome(file, group)};
}

std::vector<EditBatch> read_batches(const H5File& file, const Architecture& architecture, int64_t first,
                                    int64_t count) {
  std::vector<EditBatch> batches;
  std::map<int64_t, size_t> place;  // of a batch that is stored with updates
  for (int64_t i = first; i < first + count; ++i) {
    const std::string group = edit_group(i);
    if (!has_attribute(file, group, "batch")) {
      batches.push_back(read_rank_one(file, group));
      continue;
    }
    const auto [at, is_new] = place.try_emplace(read_int_attribute(file, group, "batch"), batches.size());
    if (is_new) batches.emplace_back();
    batches[at->second].edits.push_back(read_edit(file, group));
    batches[at->second].edits.back().recorded = read_recorded(file, group);
  }
  for (Update& update : read_updates(file, architecture))
    if (const auto at = place.find(update.batch); at != place.end())
      batches[at->second].changes.push_back(std::move(update.change));
  if (!batches.empty()) batches.back().state = read_state(file);
  return batches;
}

EditFile read_edit_file(const std::filesystem::path& path, const Architecture& architecture, FileOrigin origin) {
  if (origin == FileOrigin::handed_in) probe_hdf5(path);
  const H5File file = H5File::open_read(path);
  const bool is_edits = has_attribute(file, "/", "kind") && read_string_attribute(file, "/", "kind") == "edits";
  require<InputError>(is_edits && h5_is_group(file, "/edits"),
                      "{}: is not a file of edits; give one that loci edit wrote", path.string());
  EditFile made;
  made.path = path;
  const std::string mode = read_string_attribute(file, "/", "mode");
  require<InputError>(mode == "independent" || mode == "sequential", "{}: attribute \"mode\" of / is \"{}\"",
                      path.string(), mode);
  made.mode = mode == "sequential" ? EditMode::sequential : EditMode::independent;
  made.weights_sha256 = read_string_attribute(file, "/", "weights_sha256");
  if (has_attribute(file, "/", "base_edits_sha256"))
    made.base_edits_sha256 = read_string_attribute(file, "/", "base_edits_sha256");
  made.skipped = read_skipped_records(file);
  const auto count = static_cast<int64_t>(group_members(file, "/edits").size());
  require<InputError>(count > 0, "{}: holds no edit", path.string());
  for (int64_t i = 0; i < count; ++i) {
    const std::string group = edit_group(i);
    require<InputError>(h5_is_group(file, group), "{}: {} is missing", path.string(), group);
    if (has_attribute(file, group, "batch")) {
      made.edits.push_back(read_edit(file, group));
      made.batches.push_back(read_int_attribute(file, group, "batch"));
      continue;
    }
    EditBatch batch = read_rank_one(file, group);
    made.edits.push_back(std::move(batch.edits[0]));
    made.batches.push_back(i);
    made.updates.push_back({std::move(batch.changes[0]), i});
  }
  for (Update& update : read_updates(file, architecture)) made.updates.push_back(std::move(update));
  return made;
}

void check_edits_fit(const EditFile& file, const Architecture& architecture, const ModelState& state) {
  const std::string path = file.path.string();
  require<InputError>(file.weights_sha256 == state.weights_sha256,
                      "{}: the edits were made for another model (weights {:.12}, this model's are {:.12}); give the "
                      "model that they were made for",
                      path, file.weights_sha256, state.weights_sha256);
  require<InputError>(file.base_edits_sha256.empty() || !state.edits_sha256.empty(),
                      "{}: the edits were made on top of others (content {:.12}); name the file with those first, "
                      "{} FIRST.h5,{}",
                      path, file.base_edits_sha256, option("edits"), path);
  require<InputError>(!file.base_edits_sha256.empty() || state.edits_sha256.empty(),
                      "{}: the edits were made for the model without other edits; leave the files before it out of "
                      "{}",
                      path, option("edits"));
  require<InputError>(file.base_edits_sha256 == state.edits_sha256,
                      "{}: the edits were made on top of others (content {:.12}) than those before it in {} "
                      "(content {:.12})",
                      path, file.base_edits_sha256, option("edits"), state.edits_sha256);
  for (const Update& update : file.updates)
    check_fits(update.change, architecture, fmt::format("{}: the update of batch {}", path, update.batch));
}

namespace {

int64_t batch_of_edit(const EditFile& file, int64_t index) {
  const auto count = std::ssize(file.edits);
  require<InputError>(index >= 0 && index < count, "{}: there is no edit {}, only 0 to {}", file.path.string(), index,
                      count - 1);
  return file.batches[static_cast<size_t>(index)];
}

/// The batches whose updates are applied.
std::set<int64_t> chosen_batches(const EditFile& file, const EditChoice& choice) {
  const std::string path = file.path.string();
  if (choice.only) {
    const int64_t batch = batch_of_edit(file, *choice.only);
    require<InputError>(file.mode == EditMode::independent || file.edits.size() == 1,
                        "{}: the edits are sequential, one of them alone was never made; apply all, or remake the file "
                        "without {}",
                        path, option("sequential"));
    return {batch};
  }
  std::set<int64_t> batches(file.batches.begin(), file.batches.end()), left_out;
  if (batches.size() > 1 && file.mode == EditMode::independent)
    spdlog::warn("{}: {} edits, each made from the original model, are applied together", path, file.edits.size());
  for (const int64_t index : choice.without) left_out.insert(batch_of_edit(file, index));
  const bool weights = std::ranges::any_of(file.updates, [&](const Update& update) {
    return left_out.contains(update.batch) && !std::holds_alternative<Neurons>(update.change);
  });
  if (weights && file.mode == EditMode::sequential)
    spdlog::warn("{}: later edits were made on top of those that are left out", path);
  for (const int64_t batch : left_out) batches.erase(batch);
  return batches;
}

}  // namespace

void apply_edits(Context& context, Model& model, const EditFile& file, EditChain& chain, const EditChoice& choice) {
  check_edits_fit(file, model.config(), {model.checkpoint().weights_sha256(), chain.sha256()});
  const std::set<int64_t> batches = chosen_batches(file, choice);
  std::vector<Change> chosen;
  for (const Update& update : file.updates)
    if (batches.contains(update.batch)) chosen.push_back(update.change);
  for (const Change& change : chosen) fold(context, model, change);
  chain.add(chosen, model.config());
}

}  // namespace loci
