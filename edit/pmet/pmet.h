#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "edit/method.h"
#include "edit/resources.h"
#include "runtime/io/settings.h"

namespace loci {

/// PMET (Li et al. 2024, arXiv 2308.08742): a vector at the output of the MLP and one at that of the attention are
/// sought together, and the first is written: W_l += D^T R with MEMIT's D and R what is missing at the last layer's MLP
/// output, divided by the root of the number of layers left. The attention's vector is recorded; the published code
/// does not write it either.
std::unique_ptr<Method> make_pmet(std::string_view name, Resources& resources);
/// What its hyper-parameter files may hold.
std::vector<SettingRow> pmet_hparams(std::string_view name);

}  // namespace loci
