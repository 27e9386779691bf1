#pragma once

#include <nlohmann/json_fwd.hpp>

namespace loci {

using Json = nlohmann::json;

}  // namespace loci
