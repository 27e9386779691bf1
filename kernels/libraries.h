#pragma once

#include <string>
#include <vector>

#include "runtime/context.h"

namespace loci {

/// The numeric libraries behind the ops on this context's device, "oneDNN 2.6.3", and on a GPU its name and driver: for
/// result files.
std::vector<std::string> numeric_libraries(const Context& context);

}  // namespace loci
