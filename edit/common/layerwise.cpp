#include "edit/common/layerwise.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "edit/common/bases.h"
#include "edit/common/hidden_states.h"
#include "edit/edited_model.h"
#include "kernels/product_fp64.h"
#include "runtime/error.h"
#include "runtime/io/settings.h"
#include "runtime/wording.h"

namespace loci {
namespace {

/// What the published code continues for context templates, to ten tokens in all.
constexpr std::array<std::string_view, 5> kBeginnings = {"The", "Therefore", "Because", "I", "You"};
constexpr int64_t kTemplateTokens = 10;

constexpr std::array<std::string_view, 2> kWithoutEffect = {"layer_selection", "mom2_adjustment"};

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
  if (path.empty()) return Json::object();
  Json json = parse_json_file(path);
  require<InputError>(json.is_object(), "{}: the file must hold one object of hyper-parameters", path);
  if (json_has(json, "alg_name")) {
    const std::string made_for = json_string(json, "alg_name", path);
    require<InputError>(made_for == method, "{}: field \"alg_name\" is \"{}\"; these are not hyper-parameters of {}",
                        path, made_for, method);
  }
  const std::vector<std::string> without = keys_without_effect(json, with_effect, kWithoutEffect, path);
  if (!without.empty()) spdlog::info("{}: without effect here: {}", path, fmt::join(without, ", "));
  return json;
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

LayerwiseMethod::LayerwiseMethod(std::string name, const LayerwiseHparams& hparams, Resources& resources)
    : name_(std::move(name)),
      hparams_(hparams),
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

std::vector<LayerwiseMethod::Value> LayerwiseMethod::find_values(Executor& executor,
                                                                 std::span<const PreparedRequest> requests) const {
  const int64_t layer = layers().back();
  const auto width = static_cast<size_t>(architecture_.width);
  const TemplatePrefixes prefixes(executor, tokenizer_, templates_);
  std::vector<Value> values;
  for (auto left = requests; !left.empty();) {
    const auto wave = left.first(value_wave_size(executor, layer, left));
    const std::vector<float> states = bare_states(executor, layer, prefixes, wave);
    const EditBases bases = record_bases(executor, layer, prefixes, wave);
    std::vector<ValueProblem> problems;
    for (size_t r = 0; r < wave.size(); ++r)
      problems.push_back({&wave[r], bases.prompts[r], bases.essences[r],
                          norm(std::span(states).subspan(r * width, width)), request_name(wave[r])});
    std::vector<ValueSolution> solutions = optimize_values(executor, layer, hparams_.value, problems);
    for (size_t r = 0; r < wave.size(); ++r) {
      const auto state = std::span(states).subspan(r * width, width);
      Value value{{state.begin(), state.end()}, {state.begin(), state.end()}, std::move(solutions[r].curve)};
      for (size_t i = 0; i < width; ++i) value.wanted[i] += solutions[r].delta[i];
      values.push_back(std::move(value));
    }
    left = left.subspan(wave.size());
  }
  return values;
}

/// Layer by layer, the layers before already changed.
EditBatch LayerwiseMethod::insert(Executor& executor, std::span<const PreparedRequest> requests,
                                  std::span<Value> values) const {
  Context& context = executor.context();
  const auto n = std::ssize(requests), d = architecture_.width, ff = width();
  Model model = executor.model();
  Executor changed(context, model);
  EditBatch batch;
  std::vector<std::vector<float>> keys_of(requests.size());  // [layers, ff] of each request
  for (size_t l = 0; l < layers().size(); ++l) {
    const TemplatePrefixes prefixes(changed, tokenizer_, templates_);
    const std::vector<double> keys = grouped_keys(changed, layers()[l], prefixes, requests);
    const std::vector<float> states = bare_states(changed, layers().back(), prefixes, requests);
    std::vector<float> residuals(states.size());
    const auto share = static_cast<float>(layers().size() - l);
    for (int64_t r = 0; r < n; ++r)
      for (int64_t i = 0; i < d; ++i) residuals[r * d + i] = (values[r].wanted[i] - states[r * d + i]) / share;
    for (int64_t r = 0; r < n; ++r)
      keys_of[r].insert(keys_of[r].end(), keys.begin() + r * ff, keys.begin() + (r + 1) * ff);
    const std::vector<double> d_rows = directions(context, l, keys, n);
    require<NumericalError>(std::ranges::all_of(d_rows, [](double x) { return std::isfinite(x); }),
                            "{}: the update of layer {} is not finite", name_, layers()[l]);
    batch.changes.emplace_back(LowRank{{Role::down_weight, layers()[l]}, n, to_float(d_rows), std::move(residuals)});
    fold(context, model, batch.changes.back());
  }
  for (size_t r = 0; r < requests.size(); ++r)
    batch.edits.push_back(
        {.request = requests[r].request,
         .method = name_,
         .layer = layers().back(),
         .recorded =
             {{"value_star", "wanted output of the block at the fact token", std::move(values[r].wanted)},
              {"value_before", "that output before the batch", std::move(values[r].before)},
              {"keys", "keys at the layers when each was written", std::move(keys_of[r]), {std::ssize(layers()), ff}}},
         .loss_curve = std::move(values[r].curve)});
  return batch;
}

std::vector<EditBatch> LayerwiseMethod::edit(Executor& executor, std::span<const PreparedRequest> requests,
                                             int64_t batch_size) const {
  std::vector<Value> values = find_values(executor, requests);
  std::vector<EditBatch> batches;
  const size_t size = batch_size > 0 ? static_cast<size_t>(batch_size) : requests.size();
  for (size_t first = 0; first < requests.size(); first += size) {
    const size_t count = std::min(size, requests.size() - first);
    batches.push_back(insert(executor, requests.subspan(first, count), std::span(values).subspan(first, count)));
  }
  return batches;
}

std::vector<double> solve_for_requests(Context& context, std::span<const double> keys, std::span<const double> solved,
                                       int64_t n, double diagonal, const std::string& name) {
  const int64_t ff = std::ssize(keys) / n;
  std::vector<double> system(static_cast<size_t>(n * n)), columns(solved.size()), rows(solved.size());
  product_fp64(context, keys, Transpose::yes, solved, system, n, n, ff);
  for (int64_t i = 0; i < n; ++i) system[i * n + i] += diagonal;
  // The system's right sides are the columns of S.
  for (int64_t r = 0; r < n; ++r)
    for (int64_t i = 0; i < ff; ++i) columns[i * n + r] = solved[r * ff + i];
  Cholesky(context, std::move(system), n, name).solve(columns);
  for (int64_t r = 0; r < n; ++r)
    for (int64_t i = 0; i < ff; ++i) rows[r * ff + i] = columns[i * n + r];
  return rows;
}

}  // namespace loci
