#include <fmt/format.h>

#include "app/common.h"
#include "model/token_stream.h"
#include "runtime/error.h"
#include "runtime/progress.h"
#include "runtime/provenance.h"
#include "runtime/sha256.h"

namespace loci::app {
namespace {

struct TokenizeCommand {
  CommonOptions common;
  OutputOptions output;
  std::string text;
  int64_t max_tokens_per_document = 0;
};

/// What the result depends on: the text's and the tokenizer's contents, not their names, and the limit.
Json job_configuration(const CLI::App& app, const TokenizeCommand& command, const Tokenizer& tokenizer) {
  Json config = resolved_configuration(app, command.common);
  for (const char* without_effect : {"text", "device", "precision", "compat", "seed"}) config.erase(without_effect);
  config["text_sha256"] = sha256_file(command.text);
  config["tokenizer_sha256"] = tokenizer.sha256();
  return config;
}

TokenStream tokenize_text(const TokenizeCommand& command, const Tokenizer& tokenizer) {
  constexpr int64_t kMebibyte = int64_t{1} << 20;
  TextReader reader(command.text);
  Progress progress("tokenize", "MiB", reader.total_bytes() / kMebibyte);
  TokenizeOptions options;
  if (command.max_tokens_per_document > 0) options.max_tokens_per_document = command.max_tokens_per_document;
  options.threads = command.common.threads;
  options.progress = [&progress](const TokenizeProgress& now) {
    progress.advance(now.bytes_read / kMebibyte - progress.done());
  };
  TokenStream stream = tokenize(tokenizer, reader, options);
  require<InputError>(stream.documents() > 0,
                      "{}: holds no documents: give one a line, or JSON lines with a field \"text\"", command.text);
  progress.finish();
  return stream;
}

void report(const TokenizeCommand& command, const TokenStream& stream) {
  const auto tokens = static_cast<int64_t>(stream.tokens.size());
  if (command.common.json) {
    print_json({{"output", command.output.path},
                {"documents", stream.documents()},
                {"tokens", tokens},
                {"text_sha256", stream.source.sha256},
                {"tokenizer_sha256", stream.source.tokenizer_sha256}});
  } else {
    fmt::print("{}: {} documents, {} tokens\n", command.output.path, stream.documents(), tokens);
  }
}

void run(const CLI::App& app, const TokenizeCommand& command) {
  command.common.resolved_device();  // encoding needs none, but a wrong one is refused here as everywhere
  const Tokenizer tokenizer = Tokenizer::load(command.common.model);
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

void add_tokenize(CLI::App& app) {
  auto options = std::make_shared<TokenizeCommand>();
  CLI::App* command = app.add_subcommand("tokenize", "text to a token stream");
  add_common_options(*command, options->common);
  add_output_options(*command, options->output);
  command
      ->add_option("--text", options->text,
                   "text, one document a line, or JSON lines with a field \"text\"; either plain, .gz, .bz2 or .zst")
      ->required()
      ->type_name("FILE");
  command
      ->add_option("--max-tokens-per-document", options->max_tokens_per_document,
                   "tokens that a document keeps at most (0: all)")
      ->check(not_negative)
      ->capture_default_str();
  command->callback([options, command] {
    check_named_files(*command, options->output);
    run(*command, *options);
  });
}

}  // namespace loci::app
