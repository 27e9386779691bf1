// The files of a model folder but for its tokenizer, and a training job's.
#include "edit/common/lineage.h"
#include "model/checkpoint.h"
#include "model/families/families.h"
#include "model/train/config.h"
#include "model/train/data.h"
#include "runtime/context.h"
#include "tests/fuzz/target.h"
#include "tests/support/byte_tokenizer.h"

namespace loci::fuzz {
namespace {

bool config(std::string_view input) {
  return accepted("config.json", [&] {
    const Architecture config = architecture_from_json(parse_json(input, "config.json"), "config.json");
    config.check("config.json");
    expect(architecture_from_json(architecture_to_json(config), "again") == config,
           "a configuration comes back as it was");
  });
}
const Registration kConfig("config", config);

/// A safetensors file with this header and as many zeros as it asks for, up to a megabyte.
std::string with_data(std::string_view header) {
  constexpr uint64_t kMost = 1 << 20;
  if (header.ends_with('\n')) header.remove_suffix(1);
  uint64_t end = 0;
  try {
    const Json json = parse_json(header, "header");
    for (const auto& [name, entry] : json.items())
      if (name != "__metadata__") end = std::max(end, entry.at("data_offsets").at(1).get<uint64_t>());
  } catch (const std::exception&) {  // the reader is to find it too
  }
  std::string file;
  for (uint64_t size = header.size(), i = 0; i < 8; ++i, size >>= 8) file += static_cast<char>(size & 0xFF);
  return file.append(header).append(std::min(end, kMost), '\0');
}

/// A model folder of the input's sections. Those named *.safetensors are headers; their data are zeros.
bool checkpoint(std::string_view input) {
  static const Folder folder;
  folder.clear();
  for (const auto& [name, text] : sections(input)) {
    if (!is_file_name(name)) continue;
    folder.write(name, name.ends_with(".safetensors") ? with_data(text) : text);
  }
  return accepted(folder.path().string(), [&] {
    const Checkpoint checkpoint = Checkpoint::open(folder.path());
    std::vector<float> scratch;
    for (const Parameter& info : parameters_of(checkpoint.config()))
      expect(std::ssize(checkpoint.f32(info.name, scratch)) == element_count(info.shape, info.name),
             "a parameter has the values of its shape");
    checkpoint.weights_sha256();
  });
}
const Registration kCheckpoint("checkpoint", checkpoint);

/// What an exported checkpoint says of the models that it was made from.
bool lineage(std::string_view input) {
  static const Folder folder;
  folder.write(kLineageFile, input);
  return accepted(folder.path().string(), [&] {
    const Lineage lineage = read_lineage(folder.path(), "1");
    for (const Ancestor& ancestor : lineage.ancestors)
      expect(lineage.includes(ancestor.state), "a lineage includes its ancestors");
    write_lineage(folder.path(), lineage);
    expect(read_lineage(folder.path(), "1").ancestors == lineage.ancestors, "a lineage comes back as it was");
  });
}
const Registration kLineage("lineage", lineage);

bool training(std::string_view input) {
  return accepted("job.json", [&] {
    const Json resolved = training_config_to_json(training_config_from_json(parse_json(input, "job.json"), "job.json"));
    expect(training_config_to_json(training_config_from_json(resolved, "again")) == resolved,
           "a configuration comes back as it was");
  });
}
const Registration kTraining("training", training);

/// Documents that say where their subjects stand, as JSON Lines.
bool training_text(std::string_view input) {
  static const Folder folder;
  static Context context({.threads = 1});
  static const Tokenizer tokenizer = test::byte_tokenizer();
  const std::filesystem::path path = folder.write("fuzz.jsonl", input);
  return accepted(path.string(), [&] {
    const Corpus corpus = read_corpus(context, tokenizer, std::span(&path, 1), {.endoftext_after = false});
    expect(corpus.size() > 0, "a text without documents is refused");
    for (const TrainingSequence& sequence : corpus.alone) {
      int64_t at = 0;
      for (const TokenSpan& subject : sequence.subjects) {
        expect(at <= subject.begin && subject.begin < subject.end, "subjects rise and hold tokens");
        at = subject.end;
      }
      expect(at <= sequence.size(), "subjects lie in their text");
    }
    corpus.sha256();
  });
}
const Registration kTrainingText("training_text", training_text);

}  // namespace
}  // namespace loci::fuzz
