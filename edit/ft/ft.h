#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "edit/method.h"
#include "edit/resources.h"
#include "runtime/io/settings.h"

namespace loci {

/// Fine-tuning of one layer's down projection, weight and bias, on the requests of a batch, by Adam (Zhu et al. 2020;
/// the FT and FT-L of Meng et al. 2022).
///
/// ft: the mean of -log p over *all* target tokens, each read at the prompt's last position. That is what the name
/// means
///     in every published table.
/// ft-l: the same, each element kept within `norm_constraint` of its original.
/// ft-m: the target is teacher-forced, so each token is read at its own position.
///
/// Only blocks above the layer run: the layer's keys do not depend on its own weights.
std::unique_ptr<Method> make_ft(std::string_view name, Resources& resources);
/// What its hyper-parameter files may hold.
std::vector<SettingRow> ft_hparams(std::string_view name);

}  // namespace loci
