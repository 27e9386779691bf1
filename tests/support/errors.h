#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "runtime/error.h"

namespace loci::test {

/// The message of the error of kind E (and no other kind) that `run` must throw; a failure and "" otherwise.
template <typename E, typename Run>
std::string error_of(const Run& run) {
  try {
    run();
  } catch (const E& error) {
    return error.what();
  } catch (const std::exception& error) {
    ADD_FAILURE() << "another kind of error: " << error.what();
    return "";
  }
  ADD_FAILURE() << "no error was thrown";
  return "";
}

/// Fails unless `message` is one line and holds every part.
inline void expect_message(const std::string& message, const std::vector<std::string>& parts) {
  EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  for (const std::string& part : parts) {
    EXPECT_NE(message.find(part), std::string::npos) << "'" << part << "' is missing in: " << message;
  }
}

}  // namespace loci::test
