#include "app/prompts.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <sstream>

#include "records/record_list.h"
#include "records/subject.h"
#include "runtime/error.h"
#include "runtime/io/file_kind.h"
#include "runtime/io/standard_input.h"

namespace loci::app {
namespace {

std::vector<std::string> prompts_of_json(const std::string& text, const std::string& name) {
  std::vector<std::string> texts;
  RecordReader reader(text, name, "");
  for (Record record; reader.next_value(record);) {
    const Json& value = record.value;
    const std::string where = fmt::format("{}: prompt {}", name, record.index);
    require<InputError>(value.is_string() || value.is_object(),
                        "{}: must be a text or an object with the field \"prompt\"", where);
    texts.push_back(value.is_string() ? value.get<std::string>() : json_string(value, "prompt", where));
  }
  require<InputError>(!texts.empty(), "{}: the file must hold a list of prompts", name);
  return texts;
}

std::vector<std::string> lines_of(const std::string& text, const std::string& name) {
  refuse_other_kind(text, name, kText);
  std::vector<std::string> lines;
  std::istringstream stream{std::string(without_byte_order_mark(text))};
  auto offset = std::ssize(text) - std::ssize(stream.view());
  int64_t number = 0;
  for (std::string line; std::getline(stream, line);) {
    require_utf8(line, fmt::format("{}: line {}", name, ++number), offset);
    offset += std::ssize(line) + 1;
    if (line.ends_with('\r')) line.pop_back();
    if (line.find_first_not_of(" \t") != std::string::npos) lines.push_back(line);
  }
  require<InputError>(!lines.empty(), "{}: holds no prompts: give one per line, or a JSON list", name);
  return lines;
}

/// A model goes on with a word that brings its own space, so a space before it is rarely meant.
void warn_of_final_spaces(std::span<const Prompt> prompts) {
  const auto found = std::ranges::count_if(prompts, [](const Prompt& prompt) {
    return !prompt.text.ends_with('\n') && strip_end(prompt.text).size() < prompt.text.size();
  });
  if (found > 0)
    spdlog::warn("{} in white space, which changes what comes next: words bring their own space",
                 found == 1 ? "a prompt ends" : fmt::format("{} prompts end", found));
}

}  // namespace

std::vector<std::string> PromptOptions::read() const {
  if (file.empty()) return texts;
  const std::string name = input_name(file);
  const std::string text = read_record_text(file);
  const std::string_view start = without_byte_order_mark(text);
  const size_t first = start.find_first_not_of(" \t\r\n");
  const char kind = first == start.npos ? '\0' : start[first];
  if (kind == '[' || kind == '{' || file.ends_with(".json")) return prompts_of_json(text, name);
  return lines_of(text, name);
}

void add_prompt_options(Command& command, PromptOptions& options) {
  command.add({.name = "prompt",
               .value = &options.texts,
               .type = "TEXT",
               .help = "a prompt; may be given several times; an empty one is the start of a text",
               .group = Group::input});
  command.add(
      {.name = "prompts",
       .value = &options.file,
       .type = "FILE",
       .help = "prompts: one per line, or JSON (a list of texts or of objects with a field \"prompt\"); -: standard "
               "input",
       .role = Role::input,
       .names = Names::file,
       .excludes = {"prompt"}});
}

std::vector<Prompt> encode_prompts(const PromptOptions& options, const Tokenizer& tokenizer,
                                   const Architecture& config) {
  std::vector<Prompt> prompts;
  for (std::string& text : options.read()) {
    const std::string where =
        options.file.empty() ? "--prompt" : fmt::format("{}: prompt {}", input_name(options.file), prompts.size());
    Prompt prompt{std::move(text), {}};
    try {
      prompt.tokens = tokenizer.encode_ids(prompt.text);
    } catch (const InputError& error) {
      throw_error<InputError>("{}: {}", where, error.what());
    }
    if (prompt.tokens.empty()) {
      require<InputError>(tokenizer.start_of_text().has_value(),
                          "{}: is empty, and the tokenizer has no <|endoftext|> to start from: give a text", where);
      prompt.tokens = {*tokenizer.start_of_text()};
    }
    const auto length = std::ssize(prompt.tokens);
    require<InputError>(length <= config.positions, "{}: takes {} tokens, but the model reads {}", where, length,
                        config.positions);
    prompts.push_back(std::move(prompt));
  }
  warn_of_final_spaces(prompts);
  return prompts;
}

}  // namespace loci::app
