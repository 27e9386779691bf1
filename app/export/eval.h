#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "runtime/io/hdf5.h"

namespace loci::app {

/// Writes an evaluation (kind `eval`) into `folder`, which exists; files of the same names are replaced. `cases`: the
/// reference's `case_{id}.json`, one per record, with `pre` and, after an edit, `post`. `csv`: `prompts.csv` (one line
/// per prompt and target) and `summary.csv`. `markdown`, `latex`: the summary as a table for a paper, `summary.md` or
/// `summary.tex`. Returns the number of files. Throws InputError for another format and for a malformed evaluation.
int64_t export_eval(const H5File& file, const std::string& format, const std::filesystem::path& folder);

}  // namespace loci::app
