#pragma once

#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <string>

#include "tests/support/paths.h"

namespace loci::test {

/// Fails unless the page of the documentation holds the text, and shows it then, to be copied there.
inline void expect_in_page(const std::string& page, const std::string& text) {
  std::ifstream file(source_dir() / "docs" / page);
  const std::string all((std::istreambuf_iterator<char>(file)), {});
  EXPECT_NE(all.find(text), std::string::npos) << "docs/" << page << " must hold:\n" << text;
}

}  // namespace loci::test
