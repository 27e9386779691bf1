#include <fmt/format.h>

#include <algorithm>

#include "app/common.h"
#include "model/checkpoint.h"
#include "model/executor/executor.h"
#include "model/text/tokenizer.h"
#include "model/text/unicode.h"
#include "runtime/error.h"
#include "runtime/shown_text.h"

namespace loci::app {
namespace {

/// Texts whose encoding must decode to themselves, in form NFC if the tokenizer asks for it: spaces, contractions,
/// digits, several scripts, bytes of an emoji.
constexpr std::string_view kRoundTrip[] = {"The Eiffel Tower is located in the city of",
                                           " two  spaces,\ttabs\r\nand lines\n\n",
                                           "don't we'll I'm 12345 3.14",
                                           "Škoda, 東京, Ελλάδα, Россия, עברית",
                                           "🙂👩‍👩‍👧 e\u0301 \u00a0 \ufffd",
                                           "{}[]()<|>~`@#$%^&*"};

struct TokenizerCheck {
  int64_t vocabulary = 0;
  std::string sha256;
  std::vector<std::string> problems;
  std::vector<std::string> notes;
};

/// What does not match between tokens and rows of the embedding, and does no harm.
std::vector<std::string> unmatched(const Tokenizer& tokenizer, int64_t rows) {
  std::vector<std::string> notes;
  int64_t without_token = std::max<int64_t>(0, rows - tokenizer.vocabulary_size());
  for (int32_t id = 0; id < tokenizer.vocabulary_size(); ++id) {
    if (id >= rows && tokenizer.has_token(id))
      notes.push_back(
          fmt::format("the added token {} (id {}) has no row in the embedding of {}: texts that hold it are "
                      "refused",
                      shown(tokenizer.decode_token(id)), id, rows));
    without_token += id < rows && !tokenizer.has_token(id);
  }
  if (without_token > 0)
    notes.push_back(
        fmt::format("{} rows of the embedding have no token: generated text never holds them", without_token));
  return notes;
}

TokenizerCheck check_tokenizer(Tokenizer& tokenizer, const Architecture& config, const std::string& model) {
  TokenizerCheck check{tokenizer.vocabulary_size(), tokenizer.sha256(), {}, {}};
  try {
    tokenizer.limit_to_embedding(config.vocabulary, model);
    check.notes = unmatched(tokenizer, config.vocabulary);
  } catch (const InputError& error) {
    check.problems.emplace_back(error.what());
  }
  for (const std::string_view text : kRoundTrip) {
    const auto ids = tokenizer.encode_ids(text, SpecialTokens::parse, Tokenizer::kNoLimit, TextKind::continuation);
    const std::string decoded = tokenizer.decode(ids);
    if (decoded != text && decoded != unicode::NfcText(text).text()) {
      check.problems.push_back(fmt::format("{} does not survive encoding and decoding", shown(text)));
    }
  }
  return check;
}

/// What the weights take in memory, where they have the types in which they are stored.
int64_t weights_bytes(const Checkpoint& checkpoint) {
  int64_t bytes = 0;
  for (const Parameter& parameter : parameters_of(checkpoint.config()))
    bytes +=
        parameter.rows() * parameter.cols() * stored_bytes(type_in_memory(parameter, checkpoint.dtype(parameter.name)));
  return bytes;
}

Json describe(const Checkpoint& checkpoint, const TokenizerCheck& check) {
  const Architecture& config = checkpoint.config();
  std::vector<std::string> warnings = checkpoint.warnings();
  warnings.insert(warnings.end(), check.notes.begin(), check.notes.end());
  const int64_t parameters = config.parameter_count();
  return {{"model", checkpoint.dir().string()},
          {"architecture", config.family->title},
          {"layers", config.layers},
          {"width", config.width},
          {"heads", config.heads},
          {"mlp_width", config.mlp_width},
          {"positions", config.positions},
          {"vocabulary", config.vocabulary},
          {"activation", name_of(config.activation, kActivationNames)},
          {"tied_unembedding", config.tied},
          {"parameters", parameters},
          {"stored_types", checkpoint.stored_types()},
          {"weights_sha256", checkpoint.weights_sha256()},
          {"weights_bytes", weights_bytes(checkpoint)},
          {"recorded_bytes_per_position", recorded_row_bytes(config)},
          {"second_moment_bytes_per_layer",
           2 * config.mlp_width * config.mlp_width * static_cast<int64_t>(sizeof(double))},  // a total, a unit's sum
          {"tokenizer",
           {{"tokens", check.vocabulary},
            {"sha256", check.sha256},
            {"ok", check.problems.empty()},
            {"problems", check.problems}}},
          {"warnings", warnings}};
}

std::string mebibytes(const Json& bytes) { return fmt::format("{:.1f} MiB", bytes.get<double>() / (1024 * 1024)); }

void print_info(const Json& info) {
  const auto line = [](std::string_view what, const std::string& value) { fmt::print("{:<30} {}\n", what, value); };
  line("model", info["model"]);
  line("architecture",
       fmt::format("{}: {} layers, width {}, {} heads, MLP width {}, {}, {} unembedding",
                   info["architecture"].get<std::string>(), info["layers"].dump(), info["width"].dump(),
                   info["heads"].dump(), info["mlp_width"].dump(), info["activation"].get<std::string>(),
                   info["tied_unembedding"].get<bool>() ? "tied" : "separate"));
  line("positions", info["positions"].dump());
  line("vocabulary", info["vocabulary"].dump());
  line("parameters", fmt::format("{} ({})", info["parameters"].dump(), info["stored_types"].get<std::string>()));
  line("weights SHA-256", info["weights_sha256"]);
  line("memory: weights", mebibytes(info["weights_bytes"]));
  line("memory: a recorded position",
       fmt::format("{:.1f} KiB", info["recorded_bytes_per_position"].get<double>() / 1024));
  line("memory: second moment, a layer", mebibytes(info["second_moment_bytes_per_layer"]));
  line("tokenizer", fmt::format("{} tokens, {}", info["tokenizer"]["tokens"].dump(),
                                info["tokenizer"]["ok"].get<bool>() ? "round trip holds" : "NOT in order"));
  for (const Json& problem : info["tokenizer"]["problems"]) line("  problem", problem);
  for (const Json& warning : info["warnings"]) line("note", warning);
}

void run(const CommonOptions& options) {
  const Checkpoint checkpoint = Checkpoint::open(options.model);
  Tokenizer tokenizer = Tokenizer::load(options.model);
  const TokenizerCheck check = check_tokenizer(tokenizer, checkpoint.config(), options.model);
  const Json info = describe(checkpoint, check);
  if (options.json)
    print_json(info);
  else
    print_info(info);
  require<InputError>(check.problems.empty(), "{}: the tokenizer does not fit the model: {}", options.model,
                      check.problems.empty() ? "" : check.problems.front());
}

}  // namespace

void add_info(Commands& commands) {
  auto options = std::make_shared<CommonOptions>();
  Command& command = commands.add("info", "architecture, parameters, tokenizer check, memory needed");
  command.example = "loci info data/model";
  command.page = "README.md";
  add_common_options(command, *options, {.device = false, .threads = false});
  command.run = [options] { run(*options); };
}

}  // namespace loci::app
