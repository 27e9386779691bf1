#include "app/export/cov.h"

#include <fmt/format.h>

#include <limits>
#include <vector>

#include "model/families/families.h"
#include "runtime/error.h"
#include "runtime/io/npz.h"
#include "runtime/jobs/unit_store.h"

namespace loci::app {
namespace {

/// How many documents were asked for; 0: all. Earlier versions called the option --max-documents.
int64_t asked_documents(const H5File& file) {
  const Json config = read_config(file);
  for (const char* option : {"limit", "max-documents"}) {
    const auto value = config.find(option);
    if (value == config.end()) continue;
    return std::strtoll(value->is_string() ? value->get<std::string>().c_str() : value->dump().c_str(), nullptr, 10);
  }
  return 0;
}

/// The edited module. Files of earlier versions are of GPT-2 and do not say it.
std::string module_of(const H5File& file, const std::string& layer) {
  const std::string group = "/layers/" + layer;
  if (has_attribute(file, group, "module")) return read_string_attribute(file, group, "module");
  Architecture architecture;
  architecture.family = &gpt2();
  return published_module(architecture, loci::Role::down_weight, read_int_attribute(file, group, "layer"));
}

}  // namespace

int64_t export_second_moments(const H5File& file, const std::string& format, const std::filesystem::path& folder) {
  require<InputError>(format == "npz", "--format {}: second moments are exported as npz", format);
  const int64_t tokens = read_int_attribute(file, "/", "tokens"), documents = asked_documents(file);
  // The published code looks for the number of documents in the file's name and in `sample_size`, nan for all.
  const std::string suffix = documents > 0 ? fmt::format("_{}", documents) : "";
  const double sample_size = documents > 0 ? static_cast<double>(documents) : std::numeric_limits<double>::quiet_NaN();
  int64_t files = 0;
  for (const std::string& layer : group_members(file, "/layers")) {
    const H5Array<float> sum = read_dataset<float>(file, "/layers/" + layer + "/sum", {kAnyExtent, kAnyExtent});
    NpzWriter writer(folder / fmt::format("{}_float32_mom2{}.npz", module_of(file, layer), suffix));
    writer.add_string("mom2.constructor", "util.runningstats.SecondMoment()");
    writer.add_scalar<int64_t>("mom2.count", tokens);
    writer.add<float>("mom2.mom2", sum.values, sum.shape);
    writer.add_scalar<double>("sample_size", sample_size);
    writer.finish();
    ++files;
  }
  return files;
}

}  // namespace loci::app
