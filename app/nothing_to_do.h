#pragma once

#include <string>

#include "runtime/error.h"

namespace loci {

/// The job ran to its end, but its input left nothing for it to do: its output is whole, and empty. Exit code 7.
class NothingToDoError : public Error {
 public:
  explicit NothingToDoError(const std::string& message) : Error(message, 7) {}
};

}  // namespace loci
