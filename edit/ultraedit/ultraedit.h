#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "edit/method.h"
#include "edit/resources.h"
#include "runtime/io/settings.h"

namespace loci {

/// UltraEdit (Gu et al. 2025, arXiv 2505.14679): one forward and one backward pass per request, without a subject, an
/// optimiser or second moments.
///
/// For each chosen projection, h is its input [rows, in] and g the gradient of the loss at its output [rows, out], at
/// the rows that predict a token of the target. With h^ and g^ normalised by the mean and spread of all rows that
/// projections of this shape have seen in the sequence, and V = -lr |h^|^2 g^, the projection gets
///
///     W += H^T (H H^T + I)^-1 V    ( = (H^T H + I)^-1 H^T V )
///
/// with H the inputs as they are: a system of the batch's rows, solved in fp64. All projections are solved from the
/// same gradients. Within a batch, requests that are sorted by length share passes of `batch_size`: a pass has one mean
/// loss, and its rows enter the statistics together. Passes say what is computed; how much of it runs at once hangs on
/// the executor alone.
std::unique_ptr<Method> make_ultraedit(std::string_view name, Resources& resources);
/// What its hyper-parameter files may hold.
std::vector<SettingRow> ultraedit_hparams(std::string_view name);

}  // namespace loci
