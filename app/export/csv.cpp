#include "app/export/csv.h"

namespace loci::app {

std::string csv_quoted(std::string_view text) {
  std::string field = "\"";
  for (const char c : text) {
    if (c == '"') field += '"';
    field += c;
  }
  return field + "\"";
}

}  // namespace loci::app
