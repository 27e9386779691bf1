#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "app/common.h"
#include "app/edit_options.h"
#include "app/ranks.h"
#include "eval/comparison_job.h"

/// `loci eval --methods`: methods compared over numbers of edits.
namespace loci::app {

struct ComparisonCommand {
  std::vector<std::string> methods;
  std::vector<std::string> edits_at;
  std::string text;
  int64_t text_limit = 50000;

  bool asked_for() const { return !methods.empty(); }
};

/// Adds --methods, --edits-at, --text and --text-limit.
void add_comparison_options(Command& command, ComparisonCommand& options);

/// What the options ask for; `edit` and `others` hold what they share with an evaluation. Throws InputError for numbers
/// and files that are not there.
ComparisonOptions comparison_options(const ComparisonCommand& command, const EditOptions& edit,
                                     ComparisonOptions others);

/// Prints what the file holds, whether it was made now or before, and warns of methods that failed.
void report_comparison(const std::string& output, bool json, const ComparisonOutcome& outcome);

}  // namespace loci::app
