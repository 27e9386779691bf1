#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "edit/common/prompts.h"
#include "edit/common/value_optimizer.h"
#include "edit/method.h"
#include "edit/resources.h"
#include "edit/rome/hparams.h"
#include "kernels/cholesky.h"
#include "model/executor/executor.h"
#include "model/text/tokenizer.h"
#include "records/edit_requests.h"
#include "runtime/io/settings.h"

namespace loci {

/// Which key chooses the direction of the update, and at which key the new value is exact.
enum class RomeMethod {
  rome,    ///< direction from the mean key over the templates, exact at the bare prompt's key (Meng et al. 2022)
  r_rome,  ///< the mean key in both places (Gupta et al. 2024)
  p_rome,  ///< the bare key in both places (Gupta et al. 2024)
};

/// "rome", "r-rome", "p-rome". Throws InputError for another name.
RomeMethod rome_method_from_name(std::string_view name);
std::string_view rome_method_name(RomeMethod method);

/// A rank-one edit W' = W + u v^T of one block's down projection ([ff, d]) and how it was found. Host vectors.
struct RankOneEdit {
  EditRequest request;
  std::string method = "rome";
  int64_t layer = 0;
  std::vector<float> u;             ///< [ff], of length 1
  std::vector<float> v;             ///< [d]
  std::vector<float> k_mean;        ///< [ff] key at the fact token, mean over the context templates
  std::vector<float> k_bare;        ///< [ff] key at the fact token of the bare prompt
  std::vector<float> value_before;  ///< [d] MLP output at the fact token of the bare prompt
  std::vector<float> value_star;    ///< [d] v*, the value wanted there
  std::vector<LossRow> loss_curve;
};

/// Everything that edits of one model share.
struct RomeSettings {
  RomeMethod method = RomeMethod::rome;
  RomeHparams hparams;  ///< with a layer
  std::vector<std::string> templates = {"{}"};
  TeacherForcing forcing = TeacherForcing::tokens;
  std::shared_ptr<const Cholesky>
      second_moment;  ///< factor of C = E[k k^T] (any scale); needed where hparams.uses_second_moment
};

/// Throws InputError where the model has no such layer, or none is given.
void check_layer(const RomeHparams& hparams, const Architecture& config);
/// Throws InputError where the settings do not fit the model: no such layer, a missing or wrong C.
void check_settings(const RomeSettings& settings, const Architecture& config);

/// The edit of each request, from the executor's model as it is; the model is not changed. Requests run in waves whose
/// size depends on the requests alone, and one's result does not depend on what the others ask for beyond rounding.
/// Throws InputError for a request that does not fit the model, NumericalError where v* or the update is not finite.
std::vector<RankOneEdit> compute_edits(Executor& executor, const Tokenizer& tokenizer, const RomeSettings& settings,
                                       std::span<const EditRequest> requests);

/// The same of requests that are prepared (prepare_request()) with the settings' templates, fact token and forcing.
std::vector<RankOneEdit> compute_edits(Executor& executor, const Tokenizer& tokenizer, const RomeSettings& settings,
                                       std::span<const PreparedRequest> requests);

/// The same as a batch of one edit.
EditBatch to_batch(RankOneEdit edit);

/// ROME and its variants as Method. Reads hyper-parameters, context templates and second moments.
std::unique_ptr<Method> make_rome(std::string_view name, Resources& resources);
/// What its hyper-parameter files may hold.
std::vector<SettingRow> rome_hparams(std::string_view name);

/// v = (v* - W k_0) / (k_0 . u), so that (W + u v^T)^T k_0 = v*.  (Meng et al. 2022, eq. 2)
/// Throws NumericalError "{name}: ..." where k_0 . u is 0 or not finite.
std::vector<float> insertion_vector(std::span<const float> value_star, std::span<const double> value_at_key,
                                    std::span<const double> key, std::span<const float> u, std::string_view name);

}  // namespace loci
