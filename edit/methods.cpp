#include "edit/methods.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <spdlog/spdlog.h>

#include <algorithm>

#include "edit/alphaedit/alphaedit.h"
#include "edit/emmet/emmet.h"
#include "edit/ft/ft.h"
#include "edit/kn/kn.h"
#include "edit/memit/memit.h"
#include "edit/pmet/pmet.h"
#include "edit/rome/rome.h"
#include "edit/tpatcher/tpatcher.h"
#include "edit/ultraedit/ultraedit.h"
#include "runtime/error.h"
#include "runtime/wording.h"

namespace loci {

std::vector<MethodEntry>& methods() {
  static std::vector<MethodEntry> all = {
      {"rome", "a mean key gives the direction, the bare one the place", make_rome, rome_hparams},
      {"r-rome", "the mean key throughout", make_rome, rome_hparams, "rome"},
      {"p-rome", "the bare key throughout", make_rome, rome_hparams, "rome"},
      {"memit", "several layers, many requests at once", make_memit, memit_hparams},
      {"memit-seq", "the same, keeping the keys of earlier batches", make_memit, memit_hparams, "memit"},
      {"memit-rect", "the same, of each update the elements that change most", make_memit, memit_hparams, "memit"},
      {"memit-prune", "the same, the singular values of the total change restrained", make_memit, memit_hparams, "memit"},
      {"emmet", "the same with equality constraints", make_emmet, emmet_hparams},
      {"alphaedit", "the same within the null space of the second moments", make_alphaedit, alphaedit_hparams},
      {"pmet", "the same for the MLP's output, sought together with the attention's", make_pmet, pmet_hparams},
      {"ft", "fine-tuning of one layer, all target tokens asked at the prompt's end", make_ft, ft_hparams},
      {"ft-l", "the same within a limit of each element", make_ft, ft_hparams},
      {"ft-m", "fine-tuning with the target teacher-forced", make_ft, ft_hparams},
      {"ultraedit", "one gradient per answer token, normalised over all edits so far; any projections", make_ultraedit,
       ultraedit_hparams},
      {"kn", "rewrites the neurons that the true target hangs on", make_kn, kn_hparams},
      {"t-patcher", "neurons beside the last MLP for the tokens that the model does not say", make_tpatcher,
       tpatcher_hparams},
  };
  return all;
}

std::vector<std::string> method_names() {
  std::vector<std::string> names;
  for (const MethodEntry& entry : methods()) names.emplace_back(entry.name);
  return names;
}

std::string methods_for_people() {
  std::vector<std::string> described;
  for (const MethodEntry& entry : methods()) described.push_back(fmt::format("{} ({})", entry.name, entry.help));
  return fmt::format("{}", fmt::join(described, ", "));
}

std::unique_ptr<Method> make_method(std::string_view name, Resources& resources) {
  const auto entry = std::ranges::find(methods(), name, &MethodEntry::name);
  require<InputError>(entry != methods().end(), "the method \"{}\" is unknown; use {}", name,
                      fmt::join(method_names(), ", "));
  return entry->make(name, resources);
}

PreparedEdits prepare_edits(const EditOptions& options, Executor& executor, const Tokenizer& tokenizer,
                            const Lineage& lineage) {
  auto resources = std::make_unique<Resources>(options, executor, tokenizer, lineage);
  std::unique_ptr<Method> method = make_method(options.method, *resources);
  resources->refuse_unused_memory(options.method);
  Json config = {{"method", options.method}};
  config.update(method->settings());
  config.update(resources->configuration());
  return {std::move(resources), std::move(method), std::move(config)};
}

std::optional<PreparedRequest> prepare_or_skip(const Method& method, const EditRequest& request,
                                               const std::string& name, OnInvalid on_invalid,
                                               std::vector<std::string>& skipped) {
  try {
    return method.prepare(request, fmt::format("{}: case_id {}", name, request.case_id));
  } catch (const InputError& error) {
    refuse_or_skip(on_invalid, error, skipped);
    return std::nullopt;
  }
}

int64_t batch_size_of(const Method& method, std::string_view name, std::optional<int64_t> wanted) {
  const int64_t size = wanted.value_or(method.default_batch_size());
  require<InputError>(method.takes_batches() || size == 1, "{} {}: {} writes one request at a time; leave {} out",
                      option("batch"), size, name, option("batch"));
  return size;
}

void warn_of_sequence(const Method& method) {
  if (!method.warning_of_sequences().empty()) spdlog::warn("{}", method.warning_of_sequences());
}

}  // namespace loci
