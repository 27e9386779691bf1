#include "app/export/markup.h"

#include <fmt/format.h>

namespace loci::app {

std::string escaped_for_markdown(const std::string& text) {
  std::string made;
  for (const char c : text) {
    if (std::string_view("|*_`<>\\").find(c) != std::string_view::npos) made += '\\';
    made += c;
  }
  return made;
}

std::string escaped_for_latex(const std::string& text) {
  std::string made;
  for (const char c : text) {
    if (c == '\\')
      made += "\\textbackslash{}";
    else if (c == '~' || c == '^')
      made += fmt::format("\\{}{{}}", c);
    else if (c == '<' || c == '>' || c == '|')
      made += fmt::format("${}$", c);
    else if (std::string_view("&%$#_{}").find(c) != std::string_view::npos)
      made += fmt::format("\\{}", c);
    else
      made += c;
  }
  return made;
}

std::string Markup::estimate(const std::string& mean, const std::string& interval) const {
  return fmt::format(fmt::runtime(value), mean, interval);
}

}  // namespace loci::app
