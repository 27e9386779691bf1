#include "edit/ultraedit/ultraedit.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>

#include "edit/common/hparams.h"
#include "edit/common/moment_system.h"
#include "edit/ultraedit/gradient_rows.h"
#include "runtime/error.h"
#include "runtime/io/settings.h"
#include "runtime/wording.h"

namespace loci {
namespace {

constexpr NamedValues<TextRows, 2> kTextRowNames = {{{"ans", TextRows::answer}, {"all", TextRows::all}}};

struct UltraEditHparams {
  double rate = 1e-6;
  int64_t pass_size = 10;
  int64_t batch_size = 100;
  std::vector<std::string> modules;
  TextRows rows = TextRows::answer;
};

Field module_names(std::vector<std::string>& modules) {
  Field field{"edit_modules", "list of names",
              "the projections that are edited, as transformers names them, such as "
              "`[\"transformer.h.17.mlp.c_proj\"]`",
              Presence::required};
  field.read = [&modules](const Json& json, const std::string& where) {
    modules = json_strings(json, "edit_modules", where);
  };
  field.write = [&modules](Json& value) { value = modules; };
  return field;
}

void visit_fields(Fields& field, UltraEditHparams& hparams) {
  field.add(module_names(hparams.modules));
  field("lr", hparams.rate, {.min = 0}, "factor of the change");
  field("batch_size", hparams.pass_size, {1, kNoLimit}, "requests of a pass, which have one mean loss");
  field("n_edits", hparams.batch_size, {1, kNoLimit}, "requests that are written together, unless a batch is given");
  field("token", hparams.rows, kTextRowNames, "rows that count: those that predict the target, or all of the text");
}

UltraEditHparams read_ultraedit_hparams(const Resources& resources) {
  // How the published code loads models and data, and where it keeps rows.
  constexpr std::array<std::string_view, 7> kWithoutEffect = {"name",      "name_or_path",  "class_name", "half",
                                                              "cache_dir", "editor_device", "num_seq"};
  const std::string& path = resources.options().hparams;
  require<InputError>(!path.empty(), "ultraedit needs {} with \"edit_modules\", the projections to edit",
                      option("hparams"));
  require<InputError>(resources.options().layer < 0,
                      "{} contradicts ultraedit, which edits the \"edit_modules\" of {}; leave it out", option("layer"),
                      option("hparams"));
  UltraEditHparams hparams;
  const Fields fields = fields_of(hparams);
  read_known_settings(read_hparams_json(path, fields.keys(), kWithoutEffect), path, fields);
  return hparams;
}

std::vector<EditedModule> find_modules(const std::vector<std::string>& names, const Architecture& architecture,
                                       std::string_view where) {
  require<InputError>(!names.empty(), "{}: field \"edit_modules\" is empty; name the projections to edit", where);
  std::vector<EditedModule> modules;
  for (const std::string& name : names) {
    const std::optional<WeightId> weight = weight_named(architecture, name + ".weight");
    require<InputError>(weight.has_value(),
                        "{}: field \"edit_modules\" names \"{}\", which is not a projection in a block of this model; "
                        "such names are {} to {}",
                        where, name, published_module(architecture, Role::down_weight, 0),
                        published_module(architecture, Role::down_weight, architecture.layers - 1));
    const bool is_new = std::ranges::find(modules, *weight, &EditedModule::weight) == modules.end();
    require<InputError>(is_new, "{}: field \"edit_modules\" names \"{}\" twice", where, name);
    const Projection at = projection_of(weight->role);
    modules.push_back({name, *weight, at, site_width(architecture, at.from), site_width(architecture, at.to)});
  }
  return modules;
}

class UltraEdit : public Method {
 public:
  UltraEdit(const UltraEditHparams& hparams, Resources& resources)
      : hparams_(hparams),
        architecture_(resources.architecture()),
        tokenizer_(resources.tokenizer()),
        modules_(find_modules(hparams.modules, architecture_, resources.options().hparams)) {
    resources.refuse_second_moments("ultraedit");
    resources.refuse_context_templates("ultraedit");
    start_sequence();
  }

  PreparedRequest prepare(const EditRequest& request, std::string_view where) const override {
    return prepare_bare_request(request, tokenizer_, architecture_, where);
  }

  std::vector<EditBatch> edit(Executor& executor, std::span<const PreparedRequest> requests,
                              int64_t batch_size) const override {
    std::vector<EditBatch> batches;
    for (const std::span<const PreparedRequest> some : cut_into_batches(requests, batch_size))
      batches.push_back(write(executor, some));
    return batches;
  }

  int64_t default_batch_size() const override { return hparams_.batch_size; }
  bool has_state() const override { return true; }
  void start_sequence() final {
    normalisers_.clear();
    for (const EditedModule& module : modules_)
      normalisers_.try_emplace({module.in, module.out}, module.in, module.out);
  }
  /// Of the batches that a shard holds, only the last one brings the state.
  void take_up(const EditBatch& batch) override {
    if (batch.state.empty()) return;
    for (auto& [shape, normaliser] : normalisers_) normaliser.restore(batch.state);
  }

  Json settings() const override {
    UltraEditHparams copy = hparams_;
    return {{"hparams", settings_to_json(fields_of(copy))}};
  }

 private:
  using Normalisers = std::map<std::pair<int64_t, int64_t>, Normaliser>;  // by shape [in, out]

  EditBatch write(Executor& executor, std::span<const PreparedRequest> requests) const;
  void add_passes(Context& context, std::span<const BatchMember> members, const GradientRows& rows,
                  Normalisers& normalisers) const;
  LowRank change_of(Context& context, const EditedModule& module, const ProjectionRows& rows,
                    const Normaliser& normaliser) const;
  Edit record(const BatchMember& member, const GradientRows& rows, bool with_rows) const;

  UltraEditHparams hparams_;
  const Architecture& architecture_;
  const Tokenizer& tokenizer_;
  std::vector<EditedModule> modules_;
  Normalisers normalisers_;  // of the sequence so far
};

EditBatch UltraEdit::write(Executor& executor, std::span<const PreparedRequest> requests) const {
  Context& context = executor.context();
  const std::vector<BatchMember> members = arrange(requests, hparams_.pass_size, hparams_.rows);
  const GradientRows rows = collect_gradients(executor, modules_, members);
  Normalisers normalisers = normalisers_;
  add_passes(context, members, rows, normalisers);
  EditBatch batch;
  for (size_t m = 0; m < modules_.size(); ++m)
    batch.changes.emplace_back(change_of(context, modules_[m], rows.slice(modules_[m], m, 0, members.back().end()),
                                         normalisers.at({modules_[m].in, modules_[m].out})));
  batch.edits.resize(requests.size());
  const bool is_first = normalisers_.begin()->second.count() == 0;
  for (const BatchMember& member : members) batch.edits[member.index] = record(member, rows, is_first);
  for (const auto& [shape, normaliser] : normalisers) normaliser.add_to(batch.state);
  return batch;
}

/// Pass by pass, and in each module by module.
void UltraEdit::add_passes(Context& context, std::span<const BatchMember> members, const GradientRows& rows,
                           Normalisers& normalisers) const {
  for (size_t first = 0; first < members.size();) {
    size_t next = first;
    while (next < members.size() && members[next].pass == members[first].pass) ++next;
    for (size_t m = 0; m < modules_.size(); ++m)
      normalisers.at({modules_[m].in, modules_[m].out})
          .add(context, rows.slice(modules_[m], m, members[first].first_row, members[next - 1].end()));
    first = next;
  }
  for (const auto& [shape, normaliser] : normalisers)
    if (normaliser.count() == 1)
      spdlog::warn(
          "ultraedit: case {}: one answer token says nothing of the spread of inputs and gradients, so projections of "
          "[{}, {}] do not change; write more requests together",
          members[0].request->request.case_id, shape.first, shape.second);
}

LowRank UltraEdit::change_of(Context& context, const EditedModule& module, const ProjectionRows& rows,
                             const Normaliser& normaliser) const {
  const std::vector<double> keys(rows.keys.begin(), rows.keys.end());
  const int64_t count = std::ssize(keys) / module.in;
  const std::vector<double> directions =
      solve_for_requests(context, keys, keys, count, 1, fmt::format("ultraedit: the system of {}", module.name));
  LowRank change{
      module.weight, count, {directions.begin(), directions.end()}, normaliser.values(context, rows, hparams_.rate)};
  for (const auto& factor : {change.keys, change.values})
    require<NumericalError>(std::ranges::all_of(factor, [](float x) { return std::isfinite(x); }),
                            "ultraedit: the change of {} is not finite", module.name);
  return change;
}

Edit UltraEdit::record(const BatchMember& member, const GradientRows& rows, bool with_rows) const {
  const double loss = rows.losses[member.pass];
  Edit edit{
      .request = member.request->request,
      .method = "ultraedit",
      .layer =
          std::ranges::max(modules_, {}, [](const EditedModule& module) { return module.weight.layer; }).weight.layer,
      .recorded = {},
      .loss_curve = {{.total = loss, .target = loss, .probability = std::exp(-loss)}}};
  if (!with_rows) return edit;
  for (size_t m = 0; m < modules_.size(); ++m) {
    const EditedModule& module = modules_[m];
    const auto [keys, gradients] = rows.slice(module, m, member.first_row, member.end());
    edit.recorded.push_back({fmt::format("keys/{}", m),
                             fmt::format("inputs of {}", module.name),
                             {keys.begin(), keys.end()},
                             {member.rows, module.in}});
    edit.recorded.push_back({fmt::format("gradients/{}", m),
                             fmt::format("gradients of the pass's loss at the outputs of {}", module.name),
                             {gradients.begin(), gradients.end()},
                             {member.rows, module.out}});
  }
  return edit;
}

}  // namespace

std::unique_ptr<Method> make_ultraedit(std::string_view, Resources& resources) {
  return std::make_unique<UltraEdit>(read_ultraedit_hparams(resources), resources);
}

std::vector<SettingRow> ultraedit_hparams(std::string_view) {
  UltraEditHparams hparams;
  return hparam_rows(fields_of(hparams), {"edit_modules"});
}

}  // namespace loci
