#include <fmt/format.h>

#include "app/common.h"
#include "app/prompts.h"
#include "model/families/families.h"
#include "model/text/token_stream.h"
#include "runtime/error.h"
#include "runtime/io/sha256.h"
#include "runtime/io/standard_input.h"
#include "runtime/jobs/progress.h"
#include "runtime/jobs/provenance.h"
#include "runtime/shown_text.h"
#include "runtime/wording.h"

namespace loci::app {
namespace {

struct TokenizeCommand {
  CommonOptions common;
  JobOutput output;
  PromptOptions prompts;
  std::string text;
  int64_t max_tokens_per_document = 0;
};

/// The tokenizer; where the folder holds a model, too, tokens that its embedding does not have are refused.
Tokenizer load_tokenizer(const std::filesystem::path& folder) {
  Tokenizer tokenizer = Tokenizer::load(folder);
  std::error_code ignored;
  if (std::filesystem::exists(folder / "config.json", ignored))
    tokenizer.limit_to_embedding(read_architecture(folder / "config.json").vocabulary, folder.string());
  return tokenizer;
}

// ---- prompts: a table ----

Json tokens_of(const Tokenizer& tokenizer, const std::string& prompt) {
  const Encoding encoding = tokenizer.encode(prompt);
  Json tokens = Json::array();
  for (size_t i = 0; i < encoding.ids.size(); ++i)
    tokens.push_back({{"id", encoding.ids[i]},
                      {"text", tokenizer.decode_text(std::span(&encoding.ids[i], 1))},
                      {"begin", encoding.offsets[i].begin},
                      {"end", encoding.offsets[i].end}});
  return {{"prompt", prompt}, {"tokens", std::move(tokens)}};
}

void print_table(const Json& result) {
  const std::string prompt = result["prompt"];
  const Json& tokens = result["tokens"];
  fmt::print("{}: {}\n", shown(prompt), count(std::ssize(tokens), "token"));
  if (!tokens.empty()) fmt::print("  {:>5}  {:>7}  {:>11}  text\n", "token", "id", "bytes");
  for (size_t i = 0; i < tokens.size(); ++i) {
    const auto begin = tokens[i]["begin"].get<size_t>(), end = tokens[i]["end"].get<size_t>();
    fmt::print("  {:>5}  {:>7}  {:>11}  {}\n", i, tokens[i]["id"].get<int64_t>(), fmt::format("{}-{}", begin, end),
               begin < end ? shown(std::string_view(prompt).substr(begin, end - begin))
                           : shown(tokens[i]["text"].get<std::string>()));
  }
}

void show_prompts(const TokenizeCommand& command) {
  const Tokenizer tokenizer = load_tokenizer(command.common.model);
  Json results = Json::array();
  for (const std::string& prompt : command.prompts.read()) results.push_back(tokens_of(tokenizer, prompt));
  if (command.common.json) return print_json({{"results", std::move(results)}});
  for (const Json& result : results) print_table(result);
}

// ---- a text: a token stream ----

/// What the result depends on: the text's and the tokenizer's contents, not their names, and the limit.
Json job_configuration(const Command& app, const TokenizeCommand& command, const Tokenizer& tokenizer) {
  Json config = resolved_configuration(app, command.common);
  config["text_sha256"] = sha256_file(command.text);
  config["tokenizer_sha256"] = tokenizer.sha256();
  return config;
}

TokenStream tokenize_text(const TokenizeCommand& command, const Tokenizer& tokenizer) {
  TextReader reader(command.text);
  Progress progress("tokenize", "bytes", reader.total_bytes());
  TokenizeOptions options;
  if (command.max_tokens_per_document > 0) options.max_tokens_per_document = command.max_tokens_per_document;
  ThreadPool threads(command.common.usable_threads());
  options.progress = [&](const TokenizeProgress& now) { progress.advance(now.bytes_read - progress.done()); };
  TokenStream stream = tokenize(threads, tokenizer, reader, options);
  require<InputError>(stream.documents() > 0,
                      "{}: holds no documents: give one per line, or JSON lines with a field \"text\"",
                      input_name(command.text));
  progress.advance(reader.total_bytes() - progress.done());
  progress.finish();
  return stream;
}

void report(const TokenizeCommand& command, const TokenStream& stream) {
  const auto tokens = std::ssize(stream.tokens);
  const TokenStreamSource& source = stream.source;
  if (command.common.json)
    return print_json({{"output", command.output.path},
                       {"documents", stream.documents()},
                       {"tokens", tokens},
                       {"cut_documents", source.cut_documents},
                       {"cut_tokens", source.cut_tokens},
                       {"text_sha256", source.sha256},
                       {"tokenizer_sha256", source.tokenizer_sha256}});
  fmt::print("{}: {}, {}\n", command.output.path, count(stream.documents(), "document"), count(tokens, "token"));
  if (source.cut_documents > 0)
    fmt::print("{}\n", cut_sentence(source.cut_documents, stream.documents(), source.cut_tokens, tokens,
                                    source.max_tokens_per_document));
}

void run(const Command& app, const TokenizeCommand& command) {
  command.common.resolved_device();  // encoding needs none, but a wrong one is refused here as everywhere
  const Tokenizer tokenizer = load_tokenizer(command.common.model);
  const Json config = job_configuration(app, command, tokenizer);
  UnitStore store = command.output.open(config);
  if (is_complete(store, config)) return report(command, read_token_stream(command.output.path));
  const TokenStream stream = tokenize_text(command, tokenizer);
  store.finish([&](H5File& file, const UnitStore::OpenUnit&) {
    write_token_stream(file, stream);
    Provenance provenance = current_provenance();
    provenance.inputs = named_inputs(app);
    write_provenance(file, config, provenance);
  });
  report(command, stream);
}

}  // namespace

void add_tokenize(Commands& commands) {
  auto options = std::make_shared<TokenizeCommand>();
  Command& command = commands.add("tokenize", "turn a text into a token stream, or show the tokens of prompts");
  command.usage =
      "MODEL --text FILE --output FILE.h5 [options]\n"
      "       loci tokenize MODEL --prompt TEXT | --prompts FILE";
  command.example = "loci tokenize data/model --prompt 'The Eiffel Tower is located in the city of'";
  command.page = "docs/file_formats.md";
  command.add({.name = "text",
               .value = &options->text,
               .type = "FILE",
               .help = "text, one document per line, or JSON lines with a field \"text\"; plain, .gz, .bz2 or .zst; "
                       "-: standard input",
               .role = Role::input,
               .names = Names::file,
               .needs = "output",
               .excludes = {"prompt", "prompts"}});
  add_prompt_options(command, options->prompts);
  add_output_options(command, options->output);
  command.option("output").required = false;
  command.option("output").needs = "text";
  command.add({.name = "max-tokens-per-document",
               .value = &options->max_tokens_per_document,
               .type = "N",
               .help = "cut documents to N tokens; 0: keep all",
               .min = 0});
  add_common_options(command, options->common, {.device = false});
  command.run = [options, &command] {
    require<UsageError>(options->prompts.given() || !options->text.empty(),
                        "give --text FILE and --output FILE.h5 (for a token stream), or --prompt TEXT or --prompts "
                        "FILE (for a table)");
    if (options->prompts.given()) return show_prompts(*options);
    check_named_files(command, options->output);
    run(command, *options);
  };
}

}  // namespace loci::app
