#include "runtime/error.h"

#include <algorithm>

namespace loci {

std::string on_one_line(std::string_view text) {
  const auto is_control = [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7F; };
  while (!text.empty() && is_control(text.back())) text.remove_suffix(1);  // libraries end messages with a new line
  if (std::none_of(text.begin(), text.end(), is_control)) return std::string(text);
  std::string line;
  for (const char c : text) {
    if (!is_control(c)) {
      line += c;
    } else if (c == '\n' || c == '\t' || c == '\r') {
      line += c == '\n' ? "\\n" : c == '\t' ? "\\t" : "\\r";
    } else {
      line += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    }
  }
  return line;
}

}  // namespace loci
