#pragma once

// Precompiled for the fuzz build: what most of the libraries include.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <hdf5.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

// Compiled in json_once.cpp, with optimisations, instead of in every file.
extern template class nlohmann::basic_json<>;
