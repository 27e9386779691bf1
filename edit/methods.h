#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "edit/method.h"
#include "edit/resources.h"
#include "records/record_list.h"
#include "runtime/io/settings.h"

/// All methods that loci has.
namespace loci {

struct MethodEntry {
  std::string_view name;  ///< --method
  std::string_view help;  ///< in a few words
  /// Reads the hyper-parameters and resources that it needs. Throws InputError where they do not fit the model.
  std::unique_ptr<Method> (*make)(std::string_view name, Resources& resources);
  /// Its hyper-parameters with their defaults: what its files may hold.
  std::vector<SettingRow> (*hparams)(std::string_view name) = nullptr;
  std::string_view hparams_of = {};  ///< the method whose published hyper-parameters are for this one too
};
std::vector<MethodEntry>& methods();

std::vector<std::string> method_names();
/// "rome (...), r-rome (...), ...": for help.
std::string methods_for_people();

/// The method of this name, ready to edit; `resources` must outlive it. Throws InputError for another name, and what
/// MethodEntry::make throws.
std::unique_ptr<Method> make_method(std::string_view name, Resources& resources);

/// A method ready to edit, and what it was made from, by content: job configurations are to hold it instead of the
/// names of files.
struct PreparedEdits {
  std::unique_ptr<Resources> resources;  ///< which the method may read from
  std::unique_ptr<Method> method;
  Json config;
};

/// Has the method read what it needs. `lineage` is that of the executor's model. Throws what make_method() throws.
PreparedEdits prepare_edits(const EditOptions& options, Executor& executor, const Tokenizer& tokenizer,
                            const Lineage& lineage);
/// A request as the method runs it; nothing where it is left out. `name` of its file leads messages.
std::optional<PreparedRequest> prepare_or_skip(const Method& method, const EditRequest& request,
                                               const std::string& name, OnInvalid on_invalid,
                                               std::vector<std::string>& skipped);
/// How many requests the method writes together; 0: all. Throws InputError for a `wanted` size that it does not take.
int64_t batch_size_of(const Method& method, std::string_view name, std::optional<int64_t> wanted);
/// Warns where edits that build on each other are made by a method that is known to spoil a model so.
void warn_of_sequence(const Method& method);

}  // namespace loci
