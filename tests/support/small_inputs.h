#pragma once

#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "model/checkpoint.h"
#include "runtime/io/json.h"
#include "tests/support/byte_tokenizer.h"
#include "tests/support/tiny_model.h"

/// Files for jobs that are over at once.
namespace loci::test {

/// A Hugging Face folder with a small random model over bytes; its embedding has `rows`.
inline void write_random_model(const std::filesystem::path& dir, unsigned seed, int64_t mlp_width = 20,
                               int64_t rows = 257) {
  Architecture config = tiny_config(3, 3, 4, mlp_width, rows, 96);
  config.bos_token = 256;
  config.eos_tokens = {256};
  Context context({.device = {}, .threads = 1});
  const auto owned = random_parameters(context, config, seed);
  std::map<std::string, std::vector<float>> values;
  visit_parameters(owned->views, config,
                   [&](const Parameter& parameter, View& view) { values[parameter.name] = to_host(context, view); });
  std::map<std::string, std::span<const float>> tensors;
  for (const auto& [name, tensor] : values) tensors[name] = tensor;
  std::filesystem::create_directories(dir);
  write_checkpoint(dir, config, tensors);
  write_byte_tokenizer(dir);
}

inline Json counterfact_record(int64_t case_id) {
  const std::string subject = "Person " + std::to_string(case_id);
  return {{"case_id", case_id},
          {"requested_rewrite",
           {{"prompt", "{} lives in"},
            {"subject", subject},
            {"target_new", {{"str", "Ro"}}},
            {"target_true", {{"str", "B"}}}}},
          {"paraphrase_prompts", {subject + " is in"}},
          {"neighborhood_prompts", {"Someone lives in", "Who lives in"}}};
}

inline Json counterfact_records(int64_t count) {
  Json records = Json::array();
  for (int64_t i = 0; i < count; ++i) records.push_back(counterfact_record(i));
  return records;
}

}  // namespace loci::test
