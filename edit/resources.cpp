#include "edit/resources.h"

#include <fmt/format.h>

#include "edit/moments/second_moments.h"
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
  cov_sha256_ =
      std::async(std::launch::async, [path = options.cov] { return path.empty() ? std::string() : sha256_file(path); });
}

std::vector<std::string> Resources::context_templates(std::span<const TemplateSample> samples) {
  if (!options_.context_templates.empty()) return read_context_templates(options_.context_templates);
  used_["seed"] = options_.seed;
  return sample_context_templates(executor_, tokenizer_, samples, options_.seed);
}

std::shared_ptr<const Cholesky> Resources::second_moment(int64_t layer) {
  if (options_.cov.empty()) refuse_missing_second_moment();
  SecondMomentMatrix matrix =
      read_second_moment(options_.cov, layer, architecture().mlp_width, lineage_,
                         options_.cov_of_other_model ? OtherModels::accept : OtherModels::refuse);
  if (matrix.origin == MomentOrigin::ancestor || matrix.origin == MomentOrigin::other_model)
    used_["cov_collected_on"] = {{"model", moment_origin_name(matrix.origin)},
                                 {"weights_sha256", matrix.collected_on.weights_sha256},
                                 {"base_edits_sha256", matrix.collected_on.edits_sha256}};
  return factor_second_moment(executor_.context(), std::move(matrix), options_.ridge,
                              fmt::format("{}: the second moment of layer {}", options_.cov, layer));
}

void Resources::refuse_second_moments(std::string_view why) const {
  require<InputError>(options_.cov.empty(), "{} {} contradicts {}", option("cov"), options_.cov, why);
  require<InputError>(!options_.cov_of_other_model, "{} belongs to {} FILE, which is not given",
                      option("cov-of-other-model"), option("cov"));
}

Json Resources::configuration() {
  if (cov_sha256_.valid()) used_["cov_sha256"] = cov_sha256_.get();
  used_["ridge"] = options_.ridge;
  return used_;
}

}  // namespace loci
