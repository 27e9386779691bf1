#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "edit/common/prompts.h"
#include "edit/scoring.h"
#include "model/architecture.h"
#include "model/text/tokenizer.h"
#include "records/edit_requests.h"
#include "runtime/io/json.h"

/// The data sets that edits are scored on: CounterFact (Meng et al. 2022) in its own nested form and in EasyEdit's flat
/// one, and zsRE (Levy et al. 2017) in the form of Mitchell et al. 2022 and in EasyEdit's flat one.
namespace loci {

enum class Dataset { counterfact, zsre };

/// "counterfact", "zsre". Throws InputError for another name.
Dataset dataset_from_name(std::string_view name);
std::string_view dataset_name(Dataset dataset);

/// What a prompt measures.
enum class PromptKind : uint8_t { rewrite, paraphrase, neighborhood, attribute };
inline constexpr int kPromptKinds = 4;
std::string_view prompt_kind_name(PromptKind kind);

/// A prompt of a record with the texts that may follow it (no leading space).
struct EvalPrompt {
  PromptKind kind;
  std::string text;
  std::vector<std::string> targets;  ///< CounterFact: the new object, then the true one; zsRE: the right answer
};

/// A fact to edit and the prompts to score before and after.
struct EvalRecord {
  EditRequest edit;                 ///< target_true is `<|endoftext|>` in MEND's zsRE, as in the reference
  Json request;                     ///< the reference's `requested_rewrite` object, with the texts as they are used
  std::vector<EvalPrompt> prompts;  ///< by kind: rewrite, paraphrase, neighborhood, attribute
};

/// How a file of records is read.
struct RecordOptions {
  Dataset dataset = Dataset::counterfact;
  ZsreTarget zsre_target = ZsreTarget::answer;
  OnInvalid on_invalid = OnInvalid::refuse;
  int64_t limit = 0;  ///< keeps the first `limit` valid records; 0: all. The file is checked whole either way.
};

struct LoadedRecords : RecordReport {
  std::vector<EvalRecord> records;
};

/// Reads and checks a file whole: a list of records, a single one, or JSON Lines (RecordReader). White space at the
/// ends of texts is left out (Record), a record without case_id gets its place in the file. Throws InputError naming
/// file, record (index and case_id) and field for a missing or wrong field, a prompt without or with several places for
/// its subject, an empty text, a doubled case_id, a prompt longer than the model's context. OnInvalid::skip leaves such
/// records out instead; a file that is no list of objects, or has no valid record, is refused all the same.
LoadedRecords read_records(const std::filesystem::path& path, const RecordOptions& options, const Tokenizer& tokenizer,
                           const Architecture& config);

/// A prompt as token sequences. Usually one part holds all targets; where TeacherForcing::text needs it, each token of
/// the (only) target is a part of its own.
struct PreparedPrompt {
  std::vector<std::vector<int32_t>> target_tokens;  ///< [target][token], what is scored
  std::vector<ScoredPrompt> parts;

  /// Joins the scores of the parts: [target] with one entry per token.
  PromptScore join(std::span<const PromptScore> part_scores) const;
};

/// The prompt and its targets as tokens, the targets fed back as `forcing` says.
PreparedPrompt prepare_prompt(const EvalPrompt& prompt, const Tokenizer& tokenizer, TeacherForcing forcing);

}  // namespace loci
