#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "edit/method.h"
#include "edit/resources.h"
#include "runtime/io/settings.h"

namespace loci {

/// Knowledge neurons (Dai et al. 2022): finds the neurons that a fact's answer hangs on by integrated gradients, and
/// rewrites what they add to the residual stream.
///
/// The score of neuron i of a layer is a_i / steps sum_s d p(answer) / d a_i at s / (steps - 1) of the activations a of
/// the prompt's last token. Neurons above `adaptive_threshold` times the largest score are rewritten: their rows of the
/// down projection get -2 E[o] + 2 mean_t E[t], with E the token embedding, o what the model said, t the new target's
/// tokens. As in the published code with published_quirks: activations before the activation function, an answer of
/// several tokens scored at the bare prompt, targets without a space in front, and the sum of the E[t] once.
std::unique_ptr<Method> make_kn(std::string_view name, Resources& resources);
/// What its hyper-parameter files may hold.
std::vector<SettingRow> kn_hparams(std::string_view name);

}  // namespace loci
