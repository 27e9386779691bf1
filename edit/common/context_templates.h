#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/executor/executor.h"
#include "model/text/tokenizer.h"

/// Texts that a prompt is put after, so that a key or value does not hang on one context: each holds one `{}`.
namespace loci {

/// Texts to sample in front of the prompt: `count` of `length` tokens each, `<|endoftext|>` included.
struct TemplateSample {
  int64_t length;
  int64_t count;
};

/// A JSON list of templates. White space at the end of one is left out, since the prompt ends there; the log says so.
/// Throws InputError naming the file and the entry unless each holds exactly one `{}`.
std::vector<std::string> read_context_templates(const std::filesystem::path& path);

/// Throws InputError "{where}: ..." for an empty list or an entry without exactly one `{}`.
void check_context_templates(std::span<const std::string> templates, std::string_view where);

/// `{}` alone, then `x. {}` for texts x that the model continues `<|endoftext|>` by, each next token drawn among the
/// five most probable. Blank lines become spaces and braces are left out of the texts. A function of (model, samples,
/// seed). (The published code draws them unseeded, and decomposes accents in them, which is left out here.)
std::vector<std::string> sample_context_templates(Executor& executor, const Tokenizer& tokenizer,
                                                  std::span<const TemplateSample> samples, uint64_t seed);

/// `{}` alone, then `x. {}` for each of `beginnings` with its continuation, `length` tokens in all, drawn likewise.
/// Braces become spaces. (MEMIT's published code)
std::vector<std::string> continue_context_templates(Executor& executor, const Tokenizer& tokenizer,
                                                    std::span<const std::string_view> beginnings, int64_t length,
                                                    uint64_t seed);

}  // namespace loci
