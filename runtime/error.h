#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

namespace loci {

/// `text` on one line that a terminal shows as it is: control characters, which files hold and messages quote, are
/// written as \n, \t or \x1b; those at its end are left out.
std::string on_one_line(std::string_view text);

/// Base of everything loci throws on purpose. `what()` is one sentence for the user: it names the file, the field and
/// the fix. The command prints it and ends with `exit_code()`.
class Error : public std::runtime_error {
 public:
  explicit Error(std::string_view message, int exit_code = 1)
      : std::runtime_error(on_one_line(message)), exit_code_(exit_code) {}
  int exit_code() const { return exit_code_; }

 private:
  int exit_code_;
};

/// The user's input is at fault: a flag, a file, a record. Exit code 2.
class InputError : public Error {
 public:
  explicit InputError(const std::string& message) : Error(message, 2) {}
};

/// A result, or what an interrupted job left of one, belongs to another configuration than the job that found it.
class ConfigurationMismatch : public InputError {
 public:
  using InputError::InputError;
};

/// Shapes handed to an op do not fit each other: a defect of the caller. Thrown before any write.
class ShapeError : public Error {
 public:
  explicit ShapeError(const std::string& message) : Error(message, 4) {}
};

/// Arithmetic that cannot go on: a singular matrix, a loss that is not finite. Exit code 3.
class NumericalError : public Error {
 public:
  explicit NumericalError(const std::string& message) : Error(message, 3) {}
};

/// The system refused: disk full, short write, out of memory, a lock held by another job. Exit code 5.
class SystemError : public Error {
 public:
  explicit SystemError(const std::string& message) : Error(message, 5) {}
};

/// Ranks of the job did not come to a collective in time: they hang or were lost. Exit code 6.
class LostRankError : public Error {
 public:
  explicit LostRankError(const std::string& message) : Error(message, 6) {}
};

/// Another rank of this process failed, and says why itself: this one ends without a word. Exit code 6.
class PeerFailedError : public Error {
 public:
  explicit PeerFailedError(const std::string& message) : Error(message, 6) {}
};

/// `throw_error<InputError>("{}: field {} is missing", path, field)`.
template <typename E, typename... Args>
[[noreturn]] void throw_error(fmt::format_string<Args...> format, Args&&... args) {
  throw E(fmt::format(format, std::forward<Args>(args)...));
}

/// `require<ShapeError>(rows == n, "rows are {}, expected {}", rows, n)`.
template <typename E, typename... Args>
void require(bool condition, fmt::format_string<Args...> format, Args&&... args) {
  if (!condition) throw E(fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace loci
