#include "edit/common/layerwise.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "edit/common/bases.h"
#include "edit/common/hidden_states.h"
#include "edit/edited_model.h"
#include "runtime/error.h"
#include "runtime/io/settings.h"
#include "runtime/wording.h"

namespace loci {
namespace {

/// What the published code continues for context templates, to ten tokens in all.
constexpr std::array<std::string_view, 5> kBeginnings = {"The", "Therefore", "Because", "I", "You"};
constexpr int64_t kTemplateTokens = 10;

constexpr std::array<std::string_view, 2> kLayerwiseWithoutEffect = {"layer_selection", "mom2_adjustment"};

Field several_layers(std::vector<int64_t>& layers) {
  Field field{"layers", "list of layers", "the layers that are edited, such as `[3, 4, 5]`", Presence::off};
  field.read = [&layers](const Json& json, const std::string& where) { layers = json_ints(json, "layers", where, 0); };
  field.write = [&layers](Json& value) {
    if (!layers.empty()) value = layers;
  };
  return field;
}

double norm(std::span<const float> x) {
  double sum = 0;
  for (const float value : x) sum += static_cast<double>(value) * static_cast<double>(value);
  return std::sqrt(sum);
}

std::vector<float> to_float(std::span<const double> from) { return {from.begin(), from.end()}; }

std::string request_name(const PreparedRequest& request) { return fmt::format("case {}", request.request.case_id); }

}  // namespace

void visit_fields(Fields& field, LayerwiseHparams& hparams) {
  field.add(several_layers(hparams.layers));
  field("fact_token", hparams.fact_token, kFactTokenNames, "the token whose state and keys are edited");
  visit_fields(field, hparams.value);
  field("mom2_update_weight", hparams.moment_weight, {.min = 0},
        "weight of the second moments against the keys of the requests");
  field("v_loss_layer", hparams.loss_layer, {0, kNoLimit}, "the model's last layer, from which the loss is read",
        Presence::off);
}

Json layerwise_json(const Resources& resources, std::string_view method, const std::vector<std::string>& with_effect) {
  const std::string& path = resources.options().hparams;
  return read_hparams_json(path, with_effect, kLayerwiseWithoutEffect, [&](const Json& json) {
    const std::string made_for = json_string_or(json, "alg_name", method, path);
    require<InputError>(made_for == method, "{}: field \"alg_name\" is \"{}\"; these are not hyper-parameters of {}",
                        path, made_for, method);
    require_down_projection(json, resources.architecture(), path);
  });
}

void check_layerwise(LayerwiseHparams& hparams, const Resources& resources) {
  const int64_t layers = resources.architecture().layers;
  const std::string& where = resources.options().hparams;
  if (resources.options().layer >= 0) hparams.layers = {resources.options().layer};
  require<InputError>(!hparams.layers.empty(), "no layers to edit are given; set \"layers\" in {}, or {}",
                      option("hparams"), option("layer"));
  for (size_t i = 0; i < hparams.layers.size(); ++i) {
    require<InputError>(hparams.layers[i] < layers, "layer {} cannot be edited: the model has the layers 0 to {}",
                        hparams.layers[i], layers - 1);
    require<InputError>(i == 0 || hparams.layers[i] > hparams.layers[i - 1],
                        "{}: field \"layers\" must name each layer once, in rising order, got {}", where,
                        fmt::join(hparams.layers, ", "));
  }
  require<InputError>(hparams.loss_layer < 0 || hparams.loss_layer == layers - 1,
                      "{}: field \"v_loss_layer\" is {}; loci reads the loss from the model's last layer, {}", where,
                      hparams.loss_layer, layers - 1);
}

LayerwiseMethod::LayerwiseMethod(std::string name, const LayerwiseHparams& hparams, Resources& resources,
                                 LayerwiseForm form)
    : name_(std::move(name)),
      hparams_(hparams),
      form_(std::move(form)),
      templates_(resources.context_templates(kBeginnings, kTemplateTokens)),
      forcing_(resources.options().forcing),
      architecture_(resources.architecture()),
      tokenizer_(resources.tokenizer()) {
  require<InputError>(templates_[0] == "{}",
                      "{}: the first context template must be {{}}: half of each key comes from the prompt alone",
                      resources.options().context_templates);
}

PreparedRequest LayerwiseMethod::prepare(const EditRequest& request, std::string_view where) const {
  return prepare_request(request, templates_, hparams_.fact_token, forcing_, tokenizer_, architecture_, where);
}

std::vector<LayerwiseMethod::SiteRows> LayerwiseMethod::rows_at_sites(Executor& executor,
                                                                      const TemplatePrefixes& prefixes,
                                                                      std::span<const PreparedRequest> requests) const {
  const auto width = static_cast<size_t>(architecture_.width);
  std::vector<SiteRows> all(requests.size());
  for (const Site site : form_.search.sites) {
    const std::vector<float> states = bare_states(executor, {site, layers().back()}, prefixes, requests);
    for (size_t r = 0; r < requests.size(); ++r) {
      const auto row = std::span(states).subspan(r * width, width);
      all[r].emplace_back(row.begin(), row.end());
    }
  }
  return all;
}

std::vector<Edit> LayerwiseMethod::find(Executor& executor, std::span<const PreparedRequest> requests) const {
  const int64_t layer = layers().back();
  const TemplatePrefixes prefixes(executor, tokenizer_, templates_);
  std::vector<Edit> edits;
  for (auto left = requests; !left.empty();) {
    const auto wave = left.first(value_wave_size(executor, layer, left));
    std::vector<SiteRows> before = rows_at_sites(executor, prefixes, wave);
    const EditBases bases = record_bases(executor, layer, prefixes, wave);
    std::vector<ValueProblem> problems;
    for (size_t r = 0; r < wave.size(); ++r) {
      std::vector<double> norms;
      for (const std::vector<float>& row : before[r]) norms.push_back(norm(row));
      problems.push_back({&wave[r], bases.prompts[r], bases.essences[r], std::move(norms), request_name(wave[r])});
    }
    const std::vector<ValueSolution> solutions =
        optimize_values(executor, layer, hparams_.value, problems, form_.search);
    for (size_t r = 0; r < wave.size(); ++r) edits.push_back(record(wave[r], std::move(before[r]), solutions[r]));
    left = left.subspan(wave.size());
  }
  return edits;
}

Edit LayerwiseMethod::record(const PreparedRequest& request, SiteRows before, const ValueSolution& solution) const {
  SiteRows wanted = before;
  auto delta = solution.delta.begin();
  for (std::vector<float>& row : wanted)
    for (float& value : row) value += *delta++;
  const std::string where = form_.search.sites[0] == Site::resid ? "the block" : "the MLP";
  Edit edit{.request = request.request,
            .method = name_,
            .layer = layers().back(),
            .recorded = {{"value_star", "wanted output of " + where + " at the fact token", std::move(wanted[0])},
                         {"value_before", "that output before the batch", std::move(before[0])}},
            .loss_curve = solution.curve};
  for (size_t s = 1; s < wanted.size(); ++s)
    edit.recorded.push_back(
        {"value_star_attention", "wanted output of the attention there, which is not written", std::move(wanted[s])});
  return edit;
}

/// What a layer inserts of what is missing, [n, d].
std::vector<float> LayerwiseMethod::residuals(std::span<const Edit> found, std::span<const float> states,
                                              int64_t layers_left) const {
  const int64_t d = architecture_.width;
  const auto part = static_cast<float>(layers_left);
  const float share = form_.share == LayerwiseForm::Share::part ? part : std::sqrt(part);
  std::vector<float> missing(states.size());
  for (int64_t r = 0; r < std::ssize(found); ++r) {
    const std::span<const float> wanted = found[r].values("value_star");
    for (int64_t i = 0; i < d; ++i) missing[r * d + i] = (wanted[i] - states[r * d + i]) / share;
  }
  return missing;
}

EditBatch LayerwiseMethod::write(Executor& executor, std::span<const PreparedRequest> requests,
                                 std::vector<Edit> found) const {
  Context& context = executor.context();
  const int64_t n = std::ssize(requests), ff = width();
  Model model = executor.model();
  Executor changed(context, model);
  EditBatch batch;
  std::vector<std::vector<float>> keys_of(requests.size());  // [layers, ff] of each request
  for (size_t l = 0; l < layers().size(); ++l) {
    const TemplatePrefixes prefixes(changed, tokenizer_, templates_);
    const std::vector<double> keys = grouped_keys(changed, layers()[l], prefixes, requests);
    const std::vector<float> states =
        bare_states(changed, {form_.search.sites[0], layers().back()}, prefixes, requests);
    for (int64_t r = 0; r < n; ++r)
      keys_of[r].insert(keys_of[r].end(), keys.begin() + r * ff, keys.begin() + (r + 1) * ff);
    const std::vector<double> d_rows = directions(context, l, keys, n);
    require<NumericalError>(std::ranges::all_of(d_rows, [](double x) { return std::isfinite(x); }),
                            "{}: the update of layer {} is not finite", name_, layers()[l]);
    batch.changes.emplace_back(LowRank{{Role::down_weight, layers()[l]},
                                       n,
                                       to_float(d_rows),
                                       residuals(found, states, std::ssize(layers()) - static_cast<int64_t>(l))});
    fold(context, model, batch.changes.back());
  }
  finish(context, executor.model(), batch.changes);
  for (size_t r = 0; r < requests.size(); ++r) {
    std::vector<RecordedValues>& recorded = found[r].recorded;
    std::erase_if(recorded, [](const RecordedValues& values) { return values.name == "keys"; });  // of another batch
    recorded.push_back(
        {"keys", "keys at the layers when each was written", std::move(keys_of[r]), {std::ssize(layers()), ff}});
  }
  batch.edits = std::move(found);
  return batch;
}

}  // namespace loci
