// HDF5 files, each read as the commands read it: behind the probe. The library is not ours and knows many ways to fail
// on a damaged file; the readers must fail in none. An input describes a file, so that it stays small and can be read:
//   edits|updates|evaluation|comparison|moments|tokens|traces     a whole file of this kind, which these lines then
//   change: delete PATH                                an object dataset PATH float|double|int|long|byte EXTENT... an
//   object replaced by zeros that may not be stored strings PATH TEXT                          an object replaced by a
//   list of one string group PATH attribute OBJECT NAME int|double|text|ints VALUE... byte OFFSET VALUE in the file as
//   it lies on disk cut SIZE                                   the file's first bytes alone
// or, after a first line "raw", the file itself.
#include "runtime/io/hdf5.h"

#include <array>
#include <charconv>
#include <functional>
#include <span>

#include "edit/common/lineage.h"
#include "edit/edit_file.h"
#include "edit/moments/second_moments.h"
#include "edit/rome/rome.h"
#include "eval/comparison_file.h"
#include "eval/eval_file.h"
#include "model/families/families.h"
#include "model/text/document_source.h"
#include "model/text/token_stream.h"
#include "runtime/io/atomic_file.h"
#include "runtime/io/hdf5_checksums.h"
#include "runtime/io/hdf5_probe.h"
#include "runtime/jobs/provenance.h"
#include "runtime/jobs/unit_store.h"
#include "tests/fuzz/target.h"
#include "tests/support/byte_tokenizer.h"
#include "trace/results.h"

namespace loci::fuzz {
namespace {

constexpr int64_t kLayer = 1, kWidth = 3;
const std::string kWeights(64, '0');

// --- A whole file of each kind ---------------------------------------------------------------------------------------

void describe(H5File& file, const char* kind) {
  Provenance provenance = current_provenance();
  provenance.weights_sha256 = kWeights;
  write_provenance(file, {{"key", "value"}}, provenance);
  write_attribute(file, "/", "kind", kind);
}

/// A model that the edits fit.
const Architecture& edited_architecture() {
  static const Architecture architecture = [] {
    Architecture made;
    made.family = &gpt2();
    made.layers = kLayer + 2;
    made.width = 2;
    made.set_equal_heads(1);
    made.mlp_width = 3;
    made.positions = made.vocabulary = 8;
    return made;
  }();
  return architecture;
}

void write_edits(H5File& file, const std::vector<EditBatch>& batches) {
  describe(file, "edits");
  write_attribute(file, "/", "mode", "independent");
  write_skipped_records(file, std::vector<std::string>{"a record was left out"});
  write_batches(file, edited_architecture(), batches, 0, 0);
}

EditBatch some_batch() {
  const EditRequest request = {
      .case_id = 7, .prompt = "{} is in", .subject = "Rome", .target_new = "Japan", .target_true = "Italy"};
  PromptAnswer answer;
  answer.target_new = {0.25, 0.5, 2};
  answer.most_likely = " Japan";
  answer.most_likely_probability = 0.5;
  RankOneEdit edit{.request = request,
                   .layer = kLayer,
                   .u = {1, 0, 0},
                   .v = {1, 2},
                   .k_mean = {1, 2, 3},
                   .k_bare = {3, 2, 1},
                   .value_before = {0, 1},
                   .value_star = {1, 1},
                   .loss_curve = {{3, 2, 0.5, 0.5, 0.1}, {1, 0.5, 0.25, 0.25, 0.5}}};
  EditBatch batch = to_batch(std::move(edit));
  batch.edits[0].outcome = EditOutcome{answer, answer, {}};
  return batch;
}

void write_rank_one_edits(H5File& file) { write_edits(file, {some_batch()}); }

/// The form with updates: two edits of one batch, factors of rank 2 and whole rows.
void write_updates(H5File& file) {
  EditBatch batch = some_batch();
  batch.is_rank_one = false;
  batch.edits.push_back(batch.edits[0]);
  batch.changes = {LowRank{{Role::down_weight, 0}, 2, {1, 2, 3, 4, 5, 6}, {1, 2, 3, 4}},
                   Dense{{Role::down_weight, 1}, {0, 2}, {1, 2, 3, 4}}};
  write_edits(file, {batch});
}

void write_evaluation(H5File& file) {
  describe(file, "eval");
  write_attribute(file, "/", "dataset", "counterfact");
  const PromptScore score = {{.log_probabilities = {-1, -2}, .best = {4, 9}}, {.log_probabilities = {-3}, .best = {8}}};
  const PromptResult prompt = {.kind = PromptKind::rewrite,
                               .text = "Rome is in",
                               .targets = {"Japan", "Italy"},
                               .target_tokens = {{4, 5}, {6}},
                               .before = score,
                               .after = score};
  const std::vector<RecordResult> records = {
      {.case_id = 7, .request = {{"subject", "Rome"}}, .prompts = {prompt, prompt}},
      {.case_id = 8, .request = Json::object(), .prompts = {}}};
  write_records(file, records);
}

void write_sequence(H5File& file) {
  describe(file, "comparison");
  const std::vector<std::vector<double>> one = {{1}, {0.5}, {0.25}}, two = {{1, 0}, {0.5, 1}, {0.25, 1}};
  write_comparison(file, {.mode = EditMode::sequential,
                          .model_name = "gpt",
                          .methods = {"rome"},
                          .edits_at = {1, 2},
                          .metrics = {"ES", "PS", "NS"},
                          .metric_long_names = {"e", "p", "n"},
                          .case_ids = {7, 8},
                          .rows = {{.method = kUnedited, .values = two, .nll_sum = 3, .text_tokens = 2},
                                   {.method = "rome", .edits = 1, .values = one, .changes = {{1, 0.5}}},
                                   {.method = "rome", .edits = 2, .values = two, .changes = {{1, 0.5}}}}});
}

void write_moments(H5File& file) {
  describe(file, "second_moments");
  write_attribute(file, "/", "tokens", 5);
  write_dataset<double>(file, "/layers/1/sum", {2, 1, 0, 1, 2, 1, 0, 1, 2}, {kWidth, kWidth});
}

void write_tokens(H5File& file) {
  TokenStream stream;
  stream.source.tokenizer_sha256 = test::byte_tokenizer().sha256();
  stream.tokens = {72, 105, 33};
  stream.document_offsets = {0, 2, 3};
  write_token_stream(file, stream);
  write_provenance(file, Json::object(), current_provenance());
}

void write_traces(H5File& file) {
  describe(file, "trace");
  write_dataset<int64_t>(file, "/layer", {0, 1}, {2});
  StoredTrace stored;
  stored.known_id = 7;
  stored.subject = "Rome";
  stored.attribute = "Italy";
  stored.prompt = "Rome is in";
  stored.input_ids = {1, 2, 3};
  stored.input_tokens = {"Rome", " is", " in"};
  stored.subject_range = {0, 1};
  stored.answer = " Italy";
  stored.window = 1;
  stored.trace.answer = 4;
  stored.trace.correct = true;
  stored.trace.high_score = 0.5f;
  stored.trace.low_score = 0.1;
  for (const TraceKind kind : kTraceKinds) stored.trace.of(kind) = {0.1f, 0.2f, 0.3f, 0.4f, 0.5f, 0.6f};
  stored.trace.severed = SeveredTrace{{0.1f, 0.2f}, {0.1f, 0.2f}, {}};
  write_trace(file, stored);
  label_trace(file, "/facts/7");
}

// --- How commands read it --------------------------------------------------------------------------------------------

void read_edits(const std::filesystem::path& path) {
  const EditFile file = read_edit_file(path, edited_architecture());
  expect(!file.edits.empty() && file.batches.size() == file.edits.size(), "a file without edits is refused");
  for (const Edit& edit : file.edits) expect(!edit.loss_curve.empty(), "there is a loss");
  for (const Update& update : file.updates) expect(std::isfinite(norm_of(update.change)), "updates are finite");
  read_edit_report(H5File::open_read(path), 0);
}

/// As `loci export` does.
H5File open_result(const std::filesystem::path& path) {
  probe_hdf5(path);
  H5File file = H5File::open_read(path);
  read_config(file);
  return file;
}

void read_evaluation(const std::filesystem::path& path) {
  for (const RecordResult& record : loci::read_records(open_result(path)))
    for (const PromptResult& prompt : record.prompts) {
      expect(prompt.targets.size() == prompt.target_tokens.size() && prompt.targets.size() == prompt.before.size(),
             "every target has its scores");
    }
}

void read_sequence(const std::filesystem::path& path) {
  const Comparison comparison = read_comparison(open_result(path));
  expect(!format_comparison(comparison).empty() && comparison_to_json(comparison).is_object(), "a comparison is told");
}

void read_moments(const std::filesystem::path& path) {
  const SecondMomentMatrix matrix = read_second_moment(path, kLayer, kWidth, {{kWeights, ""}});
  expect(std::ssize(matrix.mean) == kWidth * kWidth && matrix.tokens > 0, "a matrix is whole");
}

void read_tokens(const std::filesystem::path& path) {
  static const Tokenizer tokenizer = test::byte_tokenizer();
  const NextDocument next = token_file_documents(tokenizer, path);
  std::vector<int32_t> tokens;
  for (int64_t document = 0; document < 1000 && next(tokens); ++document)
    for (const int32_t token : tokens) expect(token >= 0 && token < 256, "tokens are the model's");
}

void read_traces(const std::filesystem::path& path) {
  const std::vector<StoredTrace> traces = loci::read_traces(open_result(path));
  for (const StoredTrace& stored : traces)
    for (const TraceKind kind : kTraceKinds)
      expect(stored.tokens() > 0 && std::ssize(stored.trace.of(kind)) % stored.tokens() == 0,
             "scores fill their tokens");
}

struct Kind {
  std::string_view name;
  void (*write)(H5File& file);
  void (*read)(const std::filesystem::path& path);
};
constexpr std::array kKinds = {Kind{"edits", write_rank_one_edits, read_edits},
                               Kind{"updates", write_updates, read_edits},
                               Kind{"evaluation", write_evaluation, read_evaluation},
                               Kind{"comparison", write_sequence, read_sequence},
                               Kind{"moments", write_moments, read_moments},
                               Kind{"tokens", write_tokens, read_tokens},
                               Kind{"traces", write_traces, read_traces}};

// --- Changes ---------------------------------------------------------------------------------------------------------

std::vector<std::string> words_of(std::string_view line) {
  std::vector<std::string> words;
  while (!line.empty()) {
    const size_t end = std::min(line.find(' '), line.size());
    words.emplace_back(line.substr(0, end));
    line.remove_prefix(std::min(end + 1, line.size()));
  }
  return words;
}

template <typename T>
std::vector<T> numbers_of(std::span<const std::string> words) {
  std::vector<T> numbers;
  for (const std::string& word : words) {
    T value{};
    std::from_chars(word.data(), word.data() + word.size(), value);
    numbers.push_back(value);
  }
  return numbers;
}

void create_zeros(H5File& file, const std::string& path, const std::string& type, const std::vector<uint64_t>& shape) {
  const std::map<std::string, hid_t> types = {{"float", H5T_NATIVE_FLOAT},
                                              {"double", H5T_NATIVE_DOUBLE},
                                              {"int", H5T_NATIVE_INT32},
                                              {"long", H5T_NATIVE_INT64},
                                              {"byte", H5T_NATIVE_UINT8}};
  const auto found = types.find(type);
  if (found == types.end()) return;
  const std::vector<hsize_t> extents(shape.begin(), shape.end());
  const H5Handle space(H5Screate_simple(static_cast<int>(extents.size()), extents.data(), nullptr), H5Sclose);
  const H5Handle made(
      H5Dcreate2(file.id(), path.c_str(), found->second, space.get(), H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT), H5Dclose);
}

void set_attribute(H5File& file, std::span<const std::string> words) {
  const std::string &object = words[1], &name = words[2], &type = words[3];
  const auto values = words.subspan(4);
  if (values.empty()) return;
  if (type == "int") write_attribute(file, object, name, numbers_of<int64_t>(values)[0]);
  if (type == "double") write_attribute(file, object, name, numbers_of<double>(values)[0]);
  if (type == "text") write_attribute(file, object, name, std::string_view(values[0]));
  if (type == "ints") write_attribute(file, object, name, std::span<const int64_t>(numbers_of<int64_t>(values)));
}

/// Changes that the library makes.
void change_object(H5File& file, const std::vector<std::string>& words) {
  if (words.size() < 2) return;
  const std::string &verb = words[0], &path = words[1];
  if (verb == "attribute" && words.size() > 4) return set_attribute(file, words);
  if (verb == "group") return create_group(file, path);
  if (verb != "delete" && verb != "dataset" && verb != "strings") return;
  H5Ldelete(file.id(), path.c_str(), H5P_DEFAULT);
  if (words.size() < 3) return;
  if (verb == "dataset") create_zeros(file, path, words[2], numbers_of<uint64_t>(std::span(words).subspan(3)));
  if (verb == "strings") write_strings(file, path, std::span(words).subspan(2), {std::ssize(words) - 2});
}

/// Changes of the bytes.
void change_bytes(std::string& bytes, const std::vector<std::string>& words) {
  if (words.size() < 2 || bytes.empty()) return;
  const auto numbers = numbers_of<uint64_t>(std::span(words).subspan(1));
  if (words[0] == "byte" && numbers.size() > 1) bytes[numbers[0] % bytes.size()] = static_cast<char>(numbers[1]);
  if (words[0] == "cut") bytes.resize(numbers[0] % bytes.size());
}

bool changes_bytes(const std::vector<std::string>& words) {
  return !words.empty() && (words[0] == "byte" || words[0] == "cut");
}

/// The file with the changes that the library makes in it; its checksums are right.
std::string file_with(const Folder& folder, const Kind& kind, const std::vector<std::vector<std::string>>& changes) {
  const std::filesystem::path path = folder.path() / "made.h5";
  write_hdf5_atomically(path, [&](H5File& file) {
    kind.write(file);
    for (const auto& words : changes) try {
        change_object(file, words);
      } catch (const Error&) {  // a change that cannot be made
      }
    try {
      seal_result(file);
    } catch (const InputError&) {  // one of the changes made what cannot be read back
    }
  });
  return read_text_file(path);
}

std::string changed_file(const Folder& folder, const Kind& kind, std::string_view changes) {
  constexpr int kMostChanges = 64;
  static std::map<std::string_view, std::string> unchanged;
  std::vector<std::vector<std::string>> in_objects, in_bytes;
  for (int i = 0; i < kMostChanges && !changes.empty(); ++i) {
    std::vector<std::string> words = words_of(take_line(changes));
    (changes_bytes(words) ? in_bytes : in_objects).push_back(std::move(words));
  }
  std::string bytes = unchanged[kind.name];
  if (bytes.empty() || !in_objects.empty()) bytes = file_with(folder, kind, in_objects);
  if (in_objects.empty()) unchanged[kind.name] = bytes;
  for (const auto& words : in_bytes) change_bytes(bytes, words);
  return bytes;
}

/// A fresh file for every input: a probe remembers the files that it found well.
std::filesystem::path write_next(const Folder& folder, std::string_view bytes) {
  constexpr int64_t kKept = 16;
  static int64_t count = 0;
  if (count >= kKept) std::filesystem::remove(folder.path() / fmt::format("fuzz{}.h5", count - kKept));
  return folder.write(fmt::format("fuzz{}.h5", count++), bytes);
}

bool hdf5(std::string_view input) {
  static const Folder folder;
  const std::string_view name = take_line(input);
  bool any = false;
  for (const Kind& kind : kKinds) {
    if (name != kind.name && name != "raw") continue;
    const std::filesystem::path path =
        write_next(folder, name == "raw" ? std::string(input) : changed_file(folder, kind, input));
    any |= accepted(path.string(), [&] { kind.read(path); });
  }
  return any;
}
const Registration kHdf5("hdf5", hdf5);

/// The reference's second moments, whose layer stands in the file's name.
bool moments(std::string_view input) {
  static const Folder folder;
  const std::filesystem::path path = folder.write("transformer.h.1.mlp.c_proj_float32_mom2.npz", input);
  return accepted(path.string(), [&] { read_moments(path); });
}
const Registration kMoments("moments", moments);

}  // namespace
}  // namespace loci::fuzz
