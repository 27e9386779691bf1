#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "edit/method.h"
#include "edit/resources.h"

/// All methods that loci has.
namespace loci {

struct MethodEntry {
  std::string_view name;  ///< --method
  std::string_view help;  ///< in a few words
  /// Reads the hyper-parameters and resources that it needs. Throws InputError where they do not fit the model.
  std::unique_ptr<Method> (*make)(std::string_view name, Resources& resources);
};
std::vector<MethodEntry>& methods();

std::vector<std::string> method_names();
/// "rome (...), r-rome (...), ...": for help.
std::string methods_for_people();

/// The method of this name, ready to edit. Throws InputError for another name, and what MethodEntry::make throws.
std::unique_ptr<Method> make_method(std::string_view name, Resources& resources);

}  // namespace loci
