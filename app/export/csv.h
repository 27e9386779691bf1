#pragma once

#include <string>
#include <string_view>

namespace loci::app {

/// A field of a CSV file (RFC 4180), in quotes.
std::string csv_quoted(std::string_view text);

}  // namespace loci::app
