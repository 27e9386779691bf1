#include "edit/resources.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "model/text/document_source.h"
#include "runtime/error.h"
#include "runtime/io/sha256.h"
#include "runtime/wording.h"

namespace loci {

void refuse_missing_second_moment() {
  throw_error<InputError>("second moments are needed: give {} FILE, or set \"mom2_adjustment\" to false in {}",
                          option("cov"), option("hparams"));
}

Resources::Resources(const EditOptions& options, Executor& executor, const Tokenizer& tokenizer, Lineage lineage)
    : options_(options), executor_(executor), tokenizer_(tokenizer), lineage_(std::move(lineage)) {
  for (const std::string& path : options.cov)
    cov_sha256_.push_back(std::async(std::launch::async, [path] { return sha256_file(path); }));
}

std::vector<std::string> Resources::context_templates(std::span<const TemplateSample> samples) {
  if (!options_.context_templates.empty()) return read_context_templates(options_.context_templates);
  used_["seed"] = options_.seed;
  return sample_context_templates(executor_, tokenizer_, samples, options_.seed);
}

std::vector<std::string> Resources::context_templates(std::span<const std::string_view> beginnings, int64_t length) {
  if (!options_.context_templates.empty()) return read_context_templates(options_.context_templates);
  used_["seed"] = options_.seed;
  return continue_context_templates(executor_, tokenizer_, beginnings, length, options_.seed);
}

namespace {

/// Whether a file may hold second moments of a layer.
bool has_layer(const std::filesystem::path& path, int64_t layer) {
  if (path.extension() == ".npz") return layer_in_file_name(path) == layer;
  return h5_exists(H5File::open_read(path), fmt::format("/layers/{}", layer));
}

}  // namespace

const std::string& Resources::file_of(int64_t layer) const {
  if (options_.cov.empty()) refuse_missing_second_moment();
  // What is wrong with the only file is told by who reads it.
  if (options_.cov.size() == 1) return options_.cov[0];
  const auto file = std::ranges::find_if(options_.cov, [&](const std::string& path) { return has_layer(path, layer); });
  require<InputError>(file != options_.cov.end(), "{} {}: none of the files holds second moments of layer {}",
                      option("cov"), fmt::join(options_.cov, ","), layer);
  return *file;
}

SecondMomentMatrix Resources::read(int64_t layer) {
  SecondMomentMatrix matrix =
      read_second_moment(file_of(layer), layer, architecture().mlp_width, lineage_,
                         options_.cov_of_other_model ? OtherModels::accept : OtherModels::refuse);
  if (matrix.origin == MomentOrigin::ancestor || matrix.origin == MomentOrigin::other_model)
    used_["cov_collected_on"] = {{"model", moment_origin_name(matrix.origin)},
                                 {"weights_sha256", matrix.collected_on.weights_sha256},
                                 {"base_edits_sha256", matrix.collected_on.edits_sha256}};
  return matrix;
}

std::shared_ptr<const Cholesky> Resources::second_moment(int64_t layer, double ridge) {
  return factor_second_moment(executor_.context(), read(layer), options_.ridge + ridge,
                              fmt::format("{}: the second moment of layer {}", fmt::join(options_.cov, ","), layer));
}

std::vector<double> Resources::second_moment_matrix(int64_t layer) {
  std::vector<double> matrix = read(layer).mean;
  const int64_t width = architecture().mlp_width;
  for (int64_t i = 0; i < width; ++i) matrix[i * width + i] += options_.ridge;
  return matrix;
}

SymmetricEigen Resources::second_moment_eigen(int64_t layer) {
  SecondMomentMatrix matrix = read(layer);
  std::optional<SymmetricEigen> eigen = read_second_moment_eigen(file_of(layer), matrix);
  if (!eigen)
    eigen = symmetric_eigen(executor_.context(), std::move(matrix.mean), matrix.width,
                            fmt::format("the second moment of layer {}", layer));
  for (double& value : eigen->values) value += options_.ridge;
  return *std::move(eigen);
}

std::vector<std::vector<int32_t>> Resources::memory_texts(int64_t count, int64_t tokens) {
  require<InputError>(!options_.memory_texts.empty(), "texts that the edits leave alone are needed: give {} FILE",
                      option("memory-texts"));
  std::vector<std::string> skipped;
  const NextDocument next =
      text_documents(executor_.context(), tokenizer_, options_.memory_texts, OnInvalid::refuse, skipped);
  std::vector<std::vector<int32_t>> texts;
  const auto most = static_cast<size_t>(std::min(tokens, architecture().positions));
  for (std::vector<int32_t> text; std::ssize(texts) < count && next(text);) {
    text.resize(std::min(text.size(), most));
    texts.push_back(text);
  }
  require<InputError>(!texts.empty(), "{} {}: holds no text", option("memory-texts"), options_.memory_texts);
  used_["memory_sha256"] = sha256_file(options_.memory_texts);
  return texts;
}

void Resources::refuse_unused_memory(std::string_view method) const {
  if (options_.for_several_methods) return;
  require<InputError>(options_.memory_texts.empty() || used_.contains("memory_sha256"),
                      "{} {}: {} takes no texts to leave alone; leave it out", option("memory-texts"),
                      options_.memory_texts, method);
}

void Resources::refuse_second_moments(std::string_view why) const {
  if (options_.for_several_methods) return;
  require<InputError>(options_.cov.empty(), "{} {} contradicts {}", option("cov"), fmt::join(options_.cov, ","), why);
  require<InputError>(!options_.cov_of_other_model, "{} belongs to {} FILE, which is not given",
                      option("cov-of-other-model"), option("cov"));
}

void Resources::refuse_context_templates(std::string_view why) const {
  if (options_.for_several_methods) return;
  require<InputError>(options_.context_templates.empty(), "{} {} contradicts {}, which takes none",
                      option("context-templates"), options_.context_templates, why);
}

Json Resources::configuration() {
  Json hashes = Json::array();
  for (std::future<std::string>& hash : cov_sha256_) hashes.push_back(hash.get());
  cov_sha256_.clear();
  // One file, or none, as results have it since the first version.
  if (!used_.contains("cov_sha256"))
    used_["cov_sha256"] = hashes.size() > 1 ? hashes : hashes.empty() ? Json("") : hashes[0];
  used_["ridge"] = options_.ridge;
  return used_;
}

}  // namespace loci
