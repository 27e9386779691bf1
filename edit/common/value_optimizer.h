#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "edit/common/prompts.h"
#include "model/executor/executor.h"

namespace loci {

class Fields;  // runtime/io/settings.h

/// How v* is found (Meng et al. 2022, eq. 4 and its published code).
struct ValueOptions {
  int64_t steps = 20;
  double learning_rate = 0.5;
  double weight_decay = 0.5;
  double clamp_factor = 4;
  double kl_factor = 0.0625;
  double stop_loss = 0.05;  ///< stops where the total loss is below; no key: as in the reference
};
void visit_fields(Fields& field, ValueOptions& value);

/// Which values are sought for a request, and for how long.
struct ValueSearch {
  /// Where in block `layer` deltas are added. resid alone: lanes start above the block, and what is added there may as
  /// well be added to the MLP's output. mlp_out, attn_out: the block is computed for each evaluation.
  std::vector<Site> sites = {Site::resid};
  double target_factor = 1;  ///< of the target's loss
  /// Where the target's every token is the most likely one after every prompt, the target's loss counts a tenth in the
  /// next evaluation, and the search ends if the essence has hardly changed. (Li et al. 2024, PMET, published code)
  bool eases_when_said = false;
};

/// One request's v* to be found: vectors delta that, added at the sites of the edit layer at the fact token of every
/// prompt, make the model say the target.
struct ValueProblem {
  const PreparedRequest* request = nullptr;
  std::vector<RecordingPtr> bases;    ///< per prompt, rows up to its last, resid(edit layer) recorded from `lookup` on
  RecordingPtr essence_base;          ///< of request->essence
  std::vector<double> initial_norms;  ///< by site: |v0|, v0 the value there in prompt `initial`
  std::string name;                   ///< "case 12"; leads messages
};

/// What one evaluation of the loss gave.
struct LossRow {
  double total = 0;
  double target = 0;       ///< mean over prompts of the target's mean negative log likelihood, times its factor
  double essence = 0;      ///< kl_factor KL(now || before) after "{subject} is a" at its fact token
  double decay = 0;        ///< weight_decay |delta| / |v0|^2, summed over the sites
  double probability = 0;  ///< mean over prompts of exp(-mean negative log likelihood of the target)
};

struct ValueSolution {
  std::vector<float> delta;    ///< [sites * d]
  std::vector<LossRow> curve;  ///< one row an evaluated step
};

/// How many of the first requests make the next wave: at least one, and as many as give half a full wave of rows to
/// optimise (each is computed forwards and backwards) and half as many rows of logits, within the memory budget.
size_t value_wave_size(const Executor& executor, int64_t layer, std::span<const PreparedRequest> requests);

/// Minimises each problem's loss (Meng et al. 2022, eq. 4) by Adam from delta = 0, all of them in one batch of lanes
/// that start at the fact token, above `layer` or in it. A problem leaves the batch once its loss is below
/// options.stop_loss, or at the last step, which evaluates only; otherwise each |delta| is clamped to clamp_factor |v0|
/// after each step. Throws NumericalError naming the request where a loss is not finite.
std::vector<ValueSolution> optimize_values(Executor& executor, int64_t layer, const ValueOptions& options,
                                           std::span<const ValueProblem> problems, const ValueSearch& search = {});

}  // namespace loci
