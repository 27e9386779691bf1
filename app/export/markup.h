#pragma once

#include <string>
#include <string_view>

/// Tables for papers, in Markdown and LaTeX.
namespace loci::app {

std::string escaped_for_markdown(const std::string& text);
std::string escaped_for_latex(const std::string& text);

/// How a table is written in one markup language.
struct Markup {
  std::string (*escaped)(const std::string& text);
  std::string_view value;  ///< with places for a mean and its interval

  std::string estimate(const std::string& mean, const std::string& interval) const;
};
inline constexpr Markup kMarkdown{escaped_for_markdown, "{} ± {}"};
inline constexpr Markup kLatex{escaped_for_latex, "${} \\pm {}$"};

}  // namespace loci::app
