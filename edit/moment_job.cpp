#include "edit/moment_job.h"

#include <fmt/format.h>

#include <vector>

#include "model/executor/executor.h"
#include "model/text/document_source.h"
#include "runtime/error.h"
#include "runtime/io/sha256.h"
#include "runtime/io/standard_input.h"
#include "runtime/wording.h"

namespace loci {
namespace {

void check_options(const Ranks& ranks, const MomentJobOptions& options) {
  require<InputError>(options.text.empty() != options.tokens.empty(), "give one of {} FILE and {} FILE.h5",
                      option("text"), option("tokens"));
  require<InputError>(options.text != kStandardInput || ranks.communicator.size() == 1,
                      "{} -: one rank alone can read standard input; write the text to a file", option("text"));
  require<InputError>((options.moments.until > 0) == !options.probe.empty(),
                      "{} CHANGE and {} REQUESTS.json belong together: the second names the facts that the first "
                      "watches",
                      option("until"), option("probe"));
}

/// What the result depends on; the name of the text does not matter, its contents do.
Json job_configuration(const JobDescription& description, const MomentJobOptions& options, const LoadedModel& loaded,
                       const EditChain& base) {
  Json config = description.config;
  if (!options.probe.empty()) config["probe_sha256"] = sha256_file(options.probe);
  // Results without it keep the configuration that they have.
  if (options.moments.eigenvectors) config["eigenvectors"] = true;
  config["layers"] = options.moments.layers;
  config["text_sha256"] = sha256_file(options.text.empty() ? options.tokens : options.text);
  config["tokenizer_sha256"] = loaded.tokenizer.sha256();
  config["weights_sha256"] = loaded.model.checkpoint().weights_sha256();
  note_base_edits(config, base);
  return config;
}

/// The facts whose directions are watched, ready to run.
std::vector<PreparedRequest> read_probe(const std::filesystem::path& path, const LoadedModel& loaded) {
  std::vector<PreparedRequest> prepared;
  if (path.empty()) return prepared;
  const Architecture& architecture = loaded.model.config();
  const std::vector<std::string> bare{"{}"};
  // OnInvalid of the options is about the text.
  const LoadedRequests requests = read_requests(path, loaded.tokenizer, architecture, OnInvalid::skip);
  require<InputError>(requests.skipped.empty(), "{}", requests.skipped[0]);
  for (const EditRequest& request : requests.requests)
    prepared.push_back(prepare_request(request, bare, FactToken::subject_last, TeacherForcing::tokens, loaded.tokenizer,
                                       architecture, fmt::format("{}: case_id {}", path.string(), request.case_id)));
  return prepared;
}

}  // namespace

Spending run_moment_job(const Ranks& ranks, Context& context, LoadedModel& loaded, const JobDescription& description,
                        const MomentJobOptions& options) {
  check_options(ranks, options);
  const EditChain base = apply_given_edits(context, loaded.model, options.base);
  const std::vector<PreparedRequest> probe = read_probe(options.probe, loaded);
  const Json config = job_configuration(description, options, loaded, base);
  JobStore jobs(ranks, description.output, config);
  if (!jobs.complete()) {
    Executor executor(context, loaded.model);
    std::vector<std::string> skipped;
    SecondMomentOptions moments = options.moments;
    moments.probe = probe;
    moments.skipped = &skipped;
    const NextDocument next =
        options.text.empty() ? token_file_documents(loaded.tokenizer, options.tokens)
                             : text_documents(context, loaded.tokenizer, options.text, options.on_invalid, skipped);
    const SecondMomentRanks all{ranks.communicator, ranks.is_root() ? &jobs.store() : nullptr, &ranks.interruption};
    collect_second_moments(
        executor, next, moments, all, config,
        job_provenance(description.inputs, context, loaded.model, ranks.communicator.size(), base.sha256()));
    if (ranks.is_root()) log_skipped(skipped);
  }
  return spending_of_all(ranks.communicator, context, loaded);
}

}  // namespace loci
