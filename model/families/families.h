#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "model/architecture.h"

/// The families that loci knows. docs/adding_a_family.md
namespace loci {

/// GPT-2 (Radford et al. 2019) as transformers' GPT2LMHeadModel.
const Family& gpt2();
/// GPT-J (Wang and Komatsuzaki 2021) as GPTJForCausalLM.
const Family& gptj();
/// GPT-NeoX (Black et al. 2022) and Pythia (Biderman et al. 2023) as GPTNeoXForCausalLM.
const Family& gpt_neox();
/// Llama (Touvron et al. 2023) to Llama 3 as LlamaForCausalLM, and the families that are built like it: Mistral (Jiang
/// et al. 2023), Qwen 2 and 2.5 (Yang et al. 2024), Qwen 3 (Yang et al. 2025).
const Family& llama();
const Family& mistral();
const Family& qwen2();
const Family& qwen3();

/// Makes a further family known to the functions below, in this process. Throws Error for a model type that is known.
void add_family(const Family& family);

/// From the object of a config.json, by its `model_type`, gpt2 where it has none. Throws InputError naming `where` and
/// the field: another architecture, missing or hostile extents, two names of one field that disagree, ...
/// `notes`, where they are wanted, get a sentence for each field that does not count.
Architecture architecture_from_json(const Json& json, std::string_view where,
                                    std::vector<std::string>* notes = nullptr);
Architecture read_architecture(const std::filesystem::path& path, std::vector<std::string>* notes = nullptr);
Json architecture_to_json(const Architecture& architecture);

/// The ids that end a text: those of `eos_token_id` in generation_config.json, or, where that names none, the
/// configuration's. Throws InputError naming file and field for one that is not an id or a list of ids.
std::vector<int64_t> read_end_tokens(const std::filesystem::path& model, const Architecture& architecture);

/// A token id, a list of ids, or nothing, in a field of a configuration.
std::vector<int64_t> token_ids(const Json& json, std::string_view name, std::string_view where);

}  // namespace loci
