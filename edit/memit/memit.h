#pragma once

#include <memory>
#include <string_view>

#include "edit/method.h"
#include "edit/resources.h"

namespace loci {

/// MEMIT (Meng et al. 2023): W_l += D^T R with D^T = (lambda C + K K^T)^-1 K in the paper's orientation, R what is
/// still missing divided by the number of layers left. The system of n x n is solved where there are fewer requests
/// than neurons, by C's factor; else that of ff x ff.
std::unique_ptr<Method> make_memit(std::string_view name, Resources& resources);

}  // namespace loci
