#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "edit/method.h"
#include "edit/resources.h"
#include "runtime/io/settings.h"

namespace loci {

/// MEMIT (Meng et al. 2023): W_l += D^T R with D^T = (lambda C + K K^T)^-1 K in the paper's orientation, R what is
/// still missing divided by the number of layers left. Its variants, of AlphaEdit's repository:
///   memit-seq   the keys of earlier batches in a sequence stay: lambda C + K_p K_p^T + K K^T
///   memit-rect  of a batch's update only the elements that change most relative to the weight are kept (Gu et al.
///   2024)
///   memit-prune what a sequence changes in all is restrained (Ma et al. 2024): singular values of the total change
///   that are above the largest one of the weight grow by their logarithm only
std::unique_ptr<Method> make_memit(std::string_view name, Resources& resources);
/// What its hyper-parameter files may hold.
std::vector<SettingRow> memit_hparams(std::string_view name);

}  // namespace loci
