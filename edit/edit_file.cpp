#include "edit/edit_file.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cmath>

#include "runtime/error.h"
#include "runtime/io/hdf5_probe.h"
#include "runtime/jobs/provenance.h"
#include "runtime/wording.h"

namespace loci {
namespace {

constexpr int64_t kLossColumns = 5;

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

std::vector<LossRow> read_loss_curve(const H5File& file, const std::string& path) {
  const std::vector<double> values = read_dataset<double>(file, path, {kAnyExtent, kLossColumns}).values;
  require<InputError>(!values.empty(), "{}: {} is empty", file.path().string(), path);
  std::vector<LossRow> rows;
  for (size_t i = 0; i + kLossColumns <= values.size(); i += kLossColumns)
    rows.push_back({values[i], values[i + 1], values[i + 2], values[i + 3], values[i + 4]});
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

void write_edit(H5File& file, int64_t index, const Edit& edit) {
  const std::string group = edit_group(index);
  create_group(file, group);
  const auto write = [&](const char* name, const std::vector<float>& values, const char* long_name) {
    write_dataset<float>(file, group + "/" + name, values, {std::ssize(values)},
                         {.units = "1", .long_name = long_name});
  };
  write("u", edit.u, "direction of the update in the space of keys, W' = W + u v^T");
  write("v", edit.v, "change of the value for a unit of k.u");
  write("k_mean", edit.k_mean, "key at the fact token, mean over the context templates");
  write("k_bare", edit.k_bare, "key at the fact token of the prompt alone");
  write("value_before", edit.value_before, "MLP output at the fact token of the prompt alone");
  write("value_star", edit.value_star, "wanted MLP output v*");
  std::vector<double> curve;
  for (const LossRow& row : edit.loss_curve)
    curve.insert(curve.end(), {row.total, row.target, row.essence, row.decay, row.probability});
  write_dataset<double>(
      file, group + "/loss_curve", curve, {std::ssize(edit.loss_curve), kLossColumns},
      {.units = "nat",
       .long_name = "v* at each step: total loss, target NLL, KL, decay; mean probability of the target"});
  static const std::vector<std::string> kColumns = {"total", "target_nll", "kl", "decay", "target_probability"};
  write_attribute(file, group + "/loss_curve", "columns", std::span<const std::string>(kColumns));
  write_attribute(file, group, "case_id", edit.request.case_id);
  write_attribute(file, group, "prompt", edit.request.prompt);
  write_attribute(file, group, "subject", edit.request.subject);
  write_attribute(file, group, "target_new", edit.request.target_new);
  write_attribute(file, group, "target_true", edit.request.target_true);
  write_attribute(file, group, "method", edit.method);
  write_attribute(file, group, "layer", edit.layer);
  write_attribute(file, group, "update_norm", update_norm(edit));
  if (edit.outcome) write_outcome(file, group, *edit.outcome);
}

EditReport read_edit_report(const H5File& file, int64_t index) {
  const std::string group = edit_group(index);
  const std::vector<LossRow> curve = read_loss_curve(file, group + "/loss_curve");
  return {.request = read_request(file, group),
          .layer = read_layer(file, group),
          .update_norm = has_attribute(file, group, "update_norm") ? read_double_attribute(file, group, "update_norm")
                                                                   : update_norm(read_edit(file, index)),
          .steps = std::ssize(curve),
          .first_loss = curve.front(),
          .last_loss = curve.back(),
          .outcome = read_outcome(file, group)};
}

Edit read_edit(const H5File& file, int64_t index) {
  const std::string group = edit_group(index);
  Edit edit;
  edit.u = read_vector(file, group, "u");
  edit.v = read_vector(file, group, "v");
  edit.k_mean = read_vector(file, group, "k_mean");
  edit.k_bare = read_vector(file, group, "k_bare");
  edit.value_before = read_vector(file, group, "value_before");
  edit.value_star = read_vector(file, group, "value_star");
  require_width(file, group, "k_mean", edit.k_mean.size(), edit.u.size());
  require_width(file, group, "k_bare", edit.k_bare.size(), edit.u.size());
  require_width(file, group, "value_before", edit.value_before.size(), edit.v.size());
  require_width(file, group, "value_star", edit.value_star.size(), edit.v.size());
  edit.loss_curve = read_loss_curve(file, group + "/loss_curve");
  edit.request = read_request(file, group);
  edit.method = read_string_attribute(file, group, "method");
  edit.layer = read_layer(file, group);
  edit.outcome = read_outcome(file, group);
  return edit;
}

EditFile read_edit_file(const std::filesystem::path& path, FileOrigin origin) {
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
    require<InputError>(h5_is_group(file, edit_group(i)), "{}: {} is missing", path.string(), edit_group(i));
    made.edits.push_back(read_edit(file, i));
  }
  return made;
}

void check_edits_fit(const EditFile& file, const GptConfig& config, const ModelState& state) {
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
  for (size_t i = 0; i < file.edits.size(); ++i) {
    const Edit& edit = file.edits[i];
    const bool fits =
        edit.layer < config.layers && std::ssize(edit.u) == config.mlp_width && std::ssize(edit.v) == config.width;
    require<InputError>(fits, "{}: edit {} (layer {}, {} x {}) does not fit the model ({} layers, {} x {})", path, i,
                        edit.layer, edit.u.size(), edit.v.size(), config.layers, config.mlp_width, config.width);
  }
}

void apply_edit(Context& context, Model& model, const Edit& edit) {
  model.add_rank_one(context, edit.layer, edit.u, edit.v);
}

void apply_edits(Context& context, Model& model, const EditFile& file, EditChain& chain, std::optional<int64_t> index) {
  check_edits_fit(file, model.config(), {model.checkpoint().weights_sha256(), chain.sha256()});
  const auto count = std::ssize(file.edits);
  if (index) {
    require<InputError>(*index >= 0 && *index < count, "{}: there is no edit {}, only 0 to {}", file.path.string(),
                        *index, count - 1);
    require<InputError>(file.mode == EditMode::independent || count == 1,
                        "{}: the edits are sequential, one of them alone was never made; apply all, or remake the file "
                        "without {}",
                        file.path.string(), option("sequential"));
  }
  const std::span<const Edit> chosen =
      index ? std::span(file.edits).subspan(static_cast<size_t>(*index), 1) : std::span(file.edits);
  if (chosen.size() > 1 && file.mode == EditMode::independent)
    spdlog::warn("{}: {} edits, each made from the original model, are applied together", file.path.string(), count);
  for (const Edit& edit : chosen) apply_edit(context, model, edit);
  chain.add(chosen);
}

}  // namespace loci
