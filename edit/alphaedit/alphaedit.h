#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "edit/method.h"
#include "edit/resources.h"
#include "runtime/io/settings.h"

namespace loci {

/// AlphaEdit (Fang et al. 2025, arXiv 2410.02355): updates within the null space of the second moments, W_l += D^T R
/// with D^T = (P (K K^T + K_p K_p^T) + L2 I)^-1 P K in the paper's orientation. P projects on the eigenvectors of C
/// with eigenvalues below `nullspace_threshold`, K_p are the keys of the batches before in a sequence. Solved in fp64
/// within the null space, as a system of the requests or of the null space, whichever is smaller.
std::unique_ptr<Method> make_alphaedit(std::string_view name, Resources& resources);
/// What its hyper-parameter files may hold.
std::vector<SettingRow> alphaedit_hparams(std::string_view name);

}  // namespace loci
