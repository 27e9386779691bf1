#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "edit/method.h"
#include "edit/resources.h"
#include "runtime/io/settings.h"

namespace loci {

/// EMMET (Gupta et al. 2024, arXiv 2403.14236): equality constraints for a batch, W_l += D^T R with D^T = C'^-1 K (K^T
/// C'^-1 K + e I)^-1 in the paper's orientation, C' = lambda C + `update_norm_lambda` I. As in the published code, e
/// (`emmet_lambda`) counts for batches of two and more only: one request alone is met exactly.
std::unique_ptr<Method> make_emmet(std::string_view name, Resources& resources);
/// What its hyper-parameter files may hold.
std::vector<SettingRow> emmet_hparams(std::string_view name);

}  // namespace loci
