#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "edit/method.h"
#include "edit/resources.h"
#include "runtime/io/settings.h"

namespace loci {

/// T-Patcher (Huang et al. 2023, arXiv 2301.09785): neurons beside the MLP of the last layer, one for each token of the
/// target that the model does not say, 5 at most. A neuron starts with k = x / |x|^2 at the row x that predicts its
/// token, so that its pre-activation is 1 there, b = 0, and V random; patch_training.h says how it is trained. The
/// memory holds the rows of texts (the option `memory-texts`) and, in a sequence, those of earlier edits, so later neurons
/// leave both alone. A request whose target the model says already gets no neurons. With published_quirks the first and
/// the last row of an earlier edit's text are left out of the memory: for a target of one token that is where its
/// neuron fires.
std::unique_ptr<Method> make_tpatcher(std::string_view name, Resources& resources);
/// What its hyper-parameter files may hold.
std::vector<SettingRow> tpatcher_hparams(std::string_view name);

}  // namespace loci
