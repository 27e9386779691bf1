#include "edit/rome/rome.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <spdlog/spdlog.h>

#include <array>
#include <cmath>
#include <utility>

#include "edit/common/bases.h"
#include "edit/common/context_templates.h"
#include "runtime/error.h"
#include "runtime/wording.h"

namespace loci {
namespace {

constexpr std::array<std::pair<RomeMethod, std::string_view>, 3> kMethods = {
    {{RomeMethod::rome, "rome"}, {RomeMethod::r_rome, "r-rome"}, {RomeMethod::p_rome, "p-rome"}}};

std::string request_name(const EditRequest& request) { return fmt::format("case {}", request.case_id); }

/// Keys or values of one request: the bare prompt's and the mean over the templates, [width].
struct BareAndMean {
  std::vector<float> bare, initial;
  std::vector<double> mean;
};

/// `rows` [prompts of all requests, width] on the host; the request's start at `first_row`.
BareAndMean bare_and_mean(std::span<const float> rows, size_t width, int64_t first_row,
                          const PreparedRequest& request) {
  const auto row = [&](size_t prompt) {
    return rows.subspan((static_cast<size_t>(first_row) + prompt) * width, width);
  };
  const auto copy = [](std::span<const float> from) { return std::vector<float>(from.begin(), from.end()); };
  BareAndMean made{copy(row(0)), copy(row(request.initial)), std::vector<double>(width)};
  for (size_t p = 0; p < request.prompts.size(); ++p) {
    const double weight = static_cast<double>(request.prompts[p].weight) / static_cast<double>(request.total_weight);
    const std::span<const float> from = row(p);
    for (size_t i = 0; i < width; ++i) made.mean[i] += weight * static_cast<double>(from[i]);
  }
  return made;
}

template <typename Range>
double norm(const Range& x) {
  double sum = 0;
  for (const auto value : x) sum += static_cast<double>(value) * static_cast<double>(value);
  return std::sqrt(sum);
}

std::vector<float> to_float(std::span<const double> from) { return {from.begin(), from.end()}; }
std::vector<double> to_double(std::span<const float> from) { return {from.begin(), from.end()}; }

/// x / |x|.
std::vector<float> direction(std::span<const double> x, std::string_view name) {
  const double length = norm(x);
  require<NumericalError>(std::isfinite(length) && length > 0,
                          "{}: the key at the fact token gives no direction (its length is {})", name, length);
  std::vector<float> u;
  for (const double value : x) u.push_back(static_cast<float>(value / length));
  return u;
}

/// One call of compute_edits.
class Editor {
 public:
  Editor(Executor& executor, const Tokenizer& tokenizer, const RomeSettings& settings)
      : executor_(executor), settings_(settings), prefixes_(executor, tokenizer, settings.templates) {}

  void edit_wave(std::span<const PreparedRequest> prepared, std::vector<RankOneEdit>& edits) const {
    const int64_t layer = settings_.hparams.layer;
    const EditBases bases = record_bases(executor_, layer, prefixes_, prepared);
    const std::vector<float> keys = bases.keys.to_host(), values = bases.values.to_host();
    std::vector<BareAndMean> request_values;
    std::vector<ValueProblem> problems;
    for (size_t r = 0; r < prepared.size(); ++r) {
      request_values.push_back(
          bare_and_mean(values, static_cast<size_t>(bases.values.cols()), bases.first_row[r], prepared[r]));
      problems.push_back({&prepared[r],
                          bases.prompts[r],
                          bases.essences[r],
                          {norm(request_values[r].initial)},
                          request_name(prepared[r].request)});
    }
    const std::vector<ValueSolution> solutions = optimize_values(executor_, layer, settings_.hparams.value, problems);
    const auto width = static_cast<size_t>(bases.keys.cols());
    std::vector<BareAndMean> request_keys;
    for (size_t r = 0; r < prepared.size(); ++r)
      request_keys.push_back(bare_and_mean(keys, width, bases.first_row[r], prepared[r]));
    const std::vector<double> updates = update_directions(request_keys);
    for (size_t r = 0; r < prepared.size(); ++r)
      edits.push_back(finish(prepared[r].request, request_keys[r], request_values[r], solutions[r],
                             std::span(updates).subspan(r * width, width)));
  }

 private:
  /// C^-1 k of each request, or k, one after the other: one solve for all of them.
  std::vector<double> update_directions(std::span<const BareAndMean> keys) const {
    std::vector<double> rows;
    for (const BareAndMean& key : keys) {
      if (settings_.method == RomeMethod::p_rome)
        rows.insert(rows.end(), key.bare.begin(), key.bare.end());
      else
        rows.insert(rows.end(), key.mean.begin(), key.mean.end());
    }
    if (settings_.hparams.uses_second_moment) settings_.second_moment->solve(rows);
    return rows;
  }

  RankOneEdit finish(const EditRequest& request, const BareAndMean& key, const BareAndMean& value,
                     const ValueSolution& solution, std::span<const double> update) const {
    const std::string name = request_name(request);
    const bool mean_insertion = settings_.method == RomeMethod::r_rome;
    RankOneEdit edit;
    edit.request = request;
    edit.method = rome_method_name(settings_.method);
    edit.layer = settings_.hparams.layer;
    edit.k_mean = to_float(key.mean);
    edit.k_bare = key.bare;
    edit.value_before = value.bare;
    edit.value_star = value.initial;
    for (size_t i = 0; i < edit.value_star.size(); ++i) edit.value_star[i] += solution.delta[i];
    edit.loss_curve = solution.curve;
    edit.u = direction(update, name);
    edit.v = insertion_vector(edit.value_star, mean_insertion ? value.mean : to_double(value.bare),
                              mean_insertion ? key.mean : to_double(key.bare), edit.u, name);
    return edit;
  }

  Executor& executor_;
  const RomeSettings& settings_;
  TemplatePrefixes prefixes_;
};

}  // namespace

RomeMethod rome_method_from_name(std::string_view name) {
  for (const auto& [method, text] : kMethods)
    if (text == name) return method;
  throw_error<InputError>("the method \"{}\" is unknown; use rome, r-rome or p-rome", name);
}

std::string_view rome_method_name(RomeMethod method) {
  for (const auto& [known, text] : kMethods)
    if (known == method) return text;
  return "";
}

void check_layer(const RomeHparams& hparams, const Architecture& config) {
  require<InputError>(hparams.layer >= 0, "no layer to edit is given; set \"layers\" in {}, or {}", option("hparams"),
                      option("layer"));
  require<InputError>(hparams.layer < config.layers, "layer {} cannot be edited: the model has the layers 0 to {}",
                      hparams.layer, config.layers - 1);
}

void check_settings(const RomeSettings& settings, const Architecture& config) {
  check_layer(settings.hparams, config);
  check_context_templates(settings.templates, "context templates");
  if (!settings.hparams.uses_second_moment) return;
  if (!settings.second_moment) refuse_missing_second_moment();
  require<InputError>(settings.second_moment->size() == config.mlp_width,
                      "the second moments are {} wide, the model's keys {}", settings.second_moment->size(),
                      config.mlp_width);
}

std::vector<float> insertion_vector(std::span<const float> value_star, std::span<const double> value_at_key,
                                    std::span<const double> key, std::span<const float> u, std::string_view name) {
  double dot = 0;
  for (size_t i = 0; i < key.size(); ++i) dot += key[i] * static_cast<double>(u[i]);
  require<NumericalError>(std::isfinite(dot) && dot != 0,
                          "{}: the key and the direction of the update are orthogonal (k . u = {})", name, dot);
  std::vector<float> v(value_star.size());
  for (size_t i = 0; i < v.size(); ++i)
    v[i] = static_cast<float>((static_cast<double>(value_star[i]) - value_at_key[i]) / dot);
  return v;
}

std::vector<RankOneEdit> compute_edits(Executor& executor, const Tokenizer& tokenizer, const RomeSettings& settings,
                                       std::span<const EditRequest> requests) {
  check_settings(settings, executor.model().config());
  std::vector<PreparedRequest> prepared;
  for (const EditRequest& request : requests)
    prepared.push_back(prepare_request(request, settings.templates, settings.hparams.fact_token, settings.forcing,
                                       tokenizer, executor.model().config(), request_name(request)));
  return compute_edits(executor, tokenizer, settings, prepared);
}

std::vector<RankOneEdit> compute_edits(Executor& executor, const Tokenizer& tokenizer, const RomeSettings& settings,
                                       std::span<const PreparedRequest> requests) {
  std::vector<RankOneEdit> edits;
  if (requests.empty()) return edits;
  const Editor editor(executor, tokenizer, settings);
  for (size_t begin = 0; begin < requests.size();) {
    const size_t count = value_wave_size(executor, settings.hparams.layer, requests.subspan(begin));
    editor.edit_wave(requests.subspan(begin, count), edits);
    begin += count;
  }
  return edits;
}

EditBatch to_batch(RankOneEdit edit) {
  EditBatch batch;
  batch.is_rank_one = true;
  batch.changes.push_back(LowRank{{Role::down_weight, edit.layer}, 1, std::move(edit.u), std::move(edit.v)});
  batch.edits.push_back(
      {.request = std::move(edit.request),
       .method = std::move(edit.method),
       .layer = edit.layer,
       .recorded = {{"k_mean", "key at the fact token, mean over the context templates", std::move(edit.k_mean)},
                    {"k_bare", "key at the fact token of the prompt alone", std::move(edit.k_bare)},
                    {"value_before", "MLP output at the fact token of the prompt alone", std::move(edit.value_before)},
                    {"value_star", "wanted MLP output v*", std::move(edit.value_star)}},
       .loss_curve = std::move(edit.loss_curve)});
  return batch;
}

// --- As a method -----------------------------------------------------------------------------------------------------

namespace {

RomeHparams resolve_hparams(std::string_view method, const EditOptions& options, const Architecture& architecture) {
  RomeHparams hparams = options.hparams.empty() ? RomeHparams() : read_hparams(options.hparams);
  if (!hparams.module.empty())
    require_down_projection("rewrite_module_tmp", hparams.module, architecture, options.hparams);
  if (!hparams.without_effect.empty())
    spdlog::info("{}: without effect here: {}", options.hparams, fmt::join(hparams.without_effect, ", "));
  if (hparams.method)
    require<InputError>(
        *hparams.method == method,
        "{0}: the hyper-parameters are made for {1}, but {2} is {3}; give {2} {1}, or remove the fields "
        "that say so (\"alg_name\", \"original_implementation\", \"enable_...\")",
        options.hparams, *hparams.method, option("method"), method);
  if (options.layer >= 0) hparams.layer = options.layer;
  check_layer(hparams, architecture);
  return hparams;
}

class Rome : public Method {
 public:
  Rome(std::string_view name, Resources& resources)
      : architecture_(resources.architecture()), tokenizer_(resources.tokenizer()) {
    settings_.method = rome_method_from_name(name);
    settings_.hparams = resolve_hparams(name, resources.options(), architecture_);
    settings_.forcing = resources.options().forcing;
    if (settings_.hparams.uses_second_moment)
      settings_.second_moment = resources.second_moment(settings_.hparams.layer);
    else
      resources.refuse_second_moments(fmt::format("\"mom2_adjustment\": false in {}", option("hparams")));
    settings_.templates = resources.context_templates(settings_.hparams.samples);
    check_settings(settings_, architecture_);
  }

  PreparedRequest prepare(const EditRequest& request, std::string_view where) const override {
    return prepare_request(request, settings_.templates, settings_.hparams.fact_token, settings_.forcing, tokenizer_,
                           architecture_, where);
  }

  std::vector<EditBatch> edit(Executor& executor, std::span<const PreparedRequest> requests, int64_t) const override {
    std::vector<EditBatch> batches;
    for (RankOneEdit& edit : compute_edits(executor, tokenizer_, settings_, requests))
      batches.push_back(to_batch(std::move(edit)));
    return batches;
  }

  bool takes_batches() const override { return false; }

  Json settings() const override {
    return {{"hparams", hparams_to_json(settings_.hparams)}, {"context_templates", settings_.templates}};
  }
  std::span<const std::string> context_templates() const override { return settings_.templates; }

  std::string_view warning_of_sequences() const override {
    if (settings_.method != RomeMethod::rome) return {};
    return "rome takes a mean key in one place and a bare one in another, and in sequence such edits are known to "
           "disable "
           "a model (Gupta et al. 2024); r-rome and p-rome take one key throughout";
  }

 private:
  const Architecture& architecture_;
  const Tokenizer& tokenizer_;
  RomeSettings settings_;
};

}  // namespace

std::unique_ptr<Method> make_rome(std::string_view name, Resources& resources) {
  return std::make_unique<Rome>(name, resources);
}

std::vector<SettingRow> rome_hparams(std::string_view) {
  RomeHparams hparams;
  return hparam_rows(fields_of(hparams));
}

}  // namespace loci
