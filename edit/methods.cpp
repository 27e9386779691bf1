#include "edit/methods.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "edit/rome/rome.h"
#include "runtime/error.h"

namespace loci {

std::vector<MethodEntry>& methods() {
  static std::vector<MethodEntry> all = {
      {"rome", "a mean key gives the direction, the bare one the place", make_rome},
      {"r-rome", "the mean key throughout", make_rome},
      {"p-rome", "the bare key throughout", make_rome},
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

}  // namespace loci
