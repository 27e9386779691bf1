#include "app/prompts.h"

#include <fmt/format.h>

#include <sstream>

#include "runtime/atomic_file.h"
#include "runtime/error.h"
#include "runtime/file_kind.h"
#include "runtime/json.h"
#include "runtime/standard_input.h"

namespace loci::app {
namespace {

std::vector<std::string> prompts_of_json(const Json& json, const std::string& name) {
  require<InputError>(json.is_array() && !json.empty(), "{}: the file must hold a list of prompts", name);
  std::vector<std::string> texts;
  for (size_t i = 0; i < json.size(); ++i) {
    const std::string where = fmt::format("{}: prompt {}", name, i);
    require<InputError>(json[i].is_string() || json[i].is_object(),
                        "{}: must be a text or an object with the field \"prompt\"", where);
    texts.push_back(json[i].is_string() ? json[i].get<std::string>() : json_string(json[i], "prompt", where));
  }
  return texts;
}

std::vector<std::string> lines_of(const std::string& text, const std::string& name) {
  refuse_other_kind(text, name, kText);
  require_utf8(text, name);
  std::vector<std::string> lines;
  std::istringstream stream{std::string(without_byte_order_mark(text))};
  for (std::string line; std::getline(stream, line);) {
    if (line.ends_with('\r')) line.pop_back();
    if (line.find_first_not_of(" \t") != std::string::npos) lines.push_back(line);
  }
  require<InputError>(!lines.empty(), "{}: holds no prompts: give one per line, or a JSON list", name);
  return lines;
}

/// Objects with a field `prompt`, one per line.
std::vector<std::string> prompts_of_json_lines(const std::string& text, const std::string& name) {
  Json list = Json::array();
  for (const std::string& line : lines_of(text, name))
    list.push_back(parse_json(line, fmt::format("{}: object {}", name, list.size())));
  return prompts_of_json(list, name);
}

}  // namespace

std::vector<std::string> PromptOptions::read() const {
  if (file.empty()) return texts;
  const std::string name = input_name(file);
  const std::string text = read_text_file(file);
  const std::string_view start = without_byte_order_mark(text);
  const size_t first = start.find_first_not_of(" \t\r\n");
  const char kind = first == start.npos ? '\0' : start[first];
  if (kind == '{' && !file.ends_with(".json")) return prompts_of_json_lines(text, name);
  if (kind == '[' || file.ends_with(".json")) return prompts_of_json(parse_json(text, name), name);
  return lines_of(text, name);
}

void add_prompt_options(CLI::App& command, PromptOptions& options) {
  options.prompt = command
                       .add_option("--prompt", options.texts,
                                   "a prompt; may be given several times; an empty one is the start of a text")
                       ->type_name("TEXT")
                       ->allow_extra_args(false);
  command
      .add_option("--prompts", options.file,
                  "prompts: one per line, or JSON (a list of texts or of objects with a field \"prompt\"); -: standard "
                  "input")
      ->type_name("FILE")
      ->excludes(options.prompt);
}

std::vector<Prompt> encode_prompts(const PromptOptions& options, const Tokenizer& tokenizer, const GptConfig& config) {
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
      require<InputError>(tokenizer.end_of_text().has_value(),
                          "{}: is empty, and the tokenizer has no <|endoftext|> to start from: give a text", where);
      prompt.tokens = {*tokenizer.end_of_text()};
    }
    const auto length = static_cast<int64_t>(prompt.tokens.size());
    require<InputError>(length <= config.positions, "{}: takes {} tokens, but the model reads {}", where, length,
                        config.positions);
    prompts.push_back(std::move(prompt));
  }
  return prompts;
}

}  // namespace loci::app
