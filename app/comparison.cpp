#include "app/comparison.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <charconv>

#include "app/hparams_name.h"
#include "eval/comparison_file.h"
#include "runtime/error.h"
#include "runtime/wording.h"

namespace loci::app {
namespace {

std::vector<int64_t> numbers_of_edits(const std::vector<std::string>& texts) {
  std::vector<int64_t> numbers;
  for (const std::string& text : texts) {
    const auto end = text.data() + text.size();
    const auto result = std::from_chars(text.data(), end, numbers.emplace_back());
    require<UsageError>(result.ec == std::errc() && result.ptr == end && numbers.back() > 0,
                        "--edits-at {}: must be whole numbers from 1, with commas between", text);
  }
  return numbers;
}

}  // namespace

void add_comparison_options(Command& command, ComparisonCommand& options) {
  command.add({.name = "methods",
               .value = &options.methods,
               .type = "NAME[,...]",
               .help = "compare these methods after the numbers of edits of --edits-at, in one table: each chunk of N "
                       "records is edited from the original model; with --sequential all records in one sequence",
               .role = Role::by_content,
               .commas = true,
               .choices = method_names(),
               .needs = "edits-at",
               .excludes = {"method"}});
  command.add({.name = "edits-at",
               .value = &options.edits_at,
               .type = "N[,...]",
               .help = "numbers of edits, rising, such as 1,10,100,1000",
               .role = Role::by_content,
               .commas = true,
               .needs = "methods"});
  command.add({.name = "text",
               .value = &options.text,
               .type = "FILE",
               .help = "text that no edit is about, whose perplexity is measured",
               .role = Role::input,
               .names = Names::file,
               .needs = "methods"});
  command.add({.name = "text-limit",
               .value = &options.text_limit,
               .type = "N",
               .help = "the first N tokens of --text only; 0: all",
               .role = Role::by_content,
               .min = 0,
               .needs = "text"});
}

ComparisonOptions comparison_options(const ComparisonCommand& command, const EditOptions& edit,
                                     ComparisonOptions others) {
  others.edits_at = numbers_of_edits(command.edits_at);
  others.text = command.text;
  others.text_limit = command.text_limit;
  for (const std::string& method : command.methods) {
    EditOptions& one = others.methods.emplace_back(edit);
    one.method = method;
    one.for_several_methods = true;
    one.hparams =
        command.methods.size() > 1 ? hparams_file_of_several(edit.hparams, method) : hparams_file(edit.hparams, method);
  }
  return others;
}

void report_comparison(const std::string& output, bool json, const ComparisonOutcome& outcome) {
  const H5File file = H5File::open_read(output);
  const Comparison comparison = read_comparison(file);
  for (const ComparisonRow& row : comparison.rows)
    if (row.failed())
      spdlog::warn("eval: {} at {} failed, and has no numbers: {}", row.method, count(row.edits, "edit"), row.failure);
  if (json) {
    Json printed = comparison_to_json(comparison);
    printed.update({{"output", output},
                    {"done_before", outcome.before},
                    {"units", outcome.units},
                    {"skipped", read_skipped_records(file).size()}});
    add_spending(printed, outcome.spending);
    return print_json(printed);
  }
  fmt::print("{}", format_comparison(comparison));
  print_done_before(outcome.before, outcome.units, "units");
}

}  // namespace loci::app
