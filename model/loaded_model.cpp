#include "model/loaded_model.h"

#include <spdlog/spdlog.h>

#include <future>
#include <numeric>

#include "kernels/gemm.h"
#include "kernels/libraries.h"
#include "runtime/clock.h"
#include "runtime/jobs/progress.h"
#include "runtime/ranks/device_communicator.h"

namespace loci {

LoadedModel load_rank_model(Communicator& communicator, Context& context, const std::filesystem::path& folder) {
  const auto begin = Clock::now();
  std::future<Tokenizer> tokenizer = std::async(std::launch::async, [&] { return Tokenizer::load(folder); });
  Model model = Model::load(context, folder, *make_device_communicator(communicator, context));
  model.checkpoint().weights_sha256(&context.threads());  // kept: every job's configuration holds it
  prepare_products(context);
  LoadedModel loaded{std::move(model), tokenizer.get(), Clock::now()};
  const std::chrono::duration<double> taken = loaded.loaded_at - begin;
  spdlog::debug("{}: read in {}", folder.string(), duration_text(taken.count()));
  loaded.tokenizer.limit_to_embedding(loaded.model.config().vocabulary, folder.string());
  return loaded;
}

Spending spending_of_all(Communicator& communicator, const Context& context, const LoadedModel& loaded) {
  const auto all = communicator.all_gather_value(context.matrix_flop(), "the count of arithmetic");
  return {std::accumulate(all.begin(), all.end(), 0.0), seconds_since(loaded.loaded_at)};
}

Provenance job_provenance(const Json& inputs, const Context& context, const Model& model, int64_t ranks,
                          const std::string& base_edits_sha256) {
  Provenance provenance = current_provenance();
  provenance.inputs = inputs;
  for (std::string& library : numeric_libraries(context)) provenance.libraries.push_back(std::move(library));
  provenance.world_size = ranks;
  provenance.weights_sha256 = model.checkpoint().weights_sha256();
  provenance.base_edits_sha256 = base_edits_sha256;
  return provenance;
}

}  // namespace loci
