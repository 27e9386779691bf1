#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "edit/common/bases.h"
#include "edit/common/prompts.h"
#include "model/executor/executor.h"

/// What a model computes at the fact tokens of requests, in waves of the executor's size.
namespace loci {

/// Keys (mlp_key) of a layer, [requests, ff] on the host: half that of the bare prompt, half the mean over the other
/// templates (Meng et al. 2023, section 4.3, as its published code groups them); that of the bare prompt alone where it
/// is the only template.
std::vector<double> grouped_keys(Executor& executor, int64_t layer, const TemplatePrefixes& prefixes,
                                 std::span<const PreparedRequest> requests);

/// Rows at a site at the bare prompts' fact tokens, [requests, width of the site] on the host.
std::vector<float> bare_states(Executor& executor, BlockSite at, const TemplatePrefixes& prefixes,
                               std::span<const PreparedRequest> requests);

}  // namespace loci
