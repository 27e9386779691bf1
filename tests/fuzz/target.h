#pragma once

#include <algorithm>
#include <filesystem>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/error.h"

/// Readers of files that users hand in, each as a function of any bytes. tests/fuzz/fuzz.cpp gives them to libFuzzer;
/// tests/fuzz/replay_test.cpp runs them on the inputs in tests/fuzz/corpus in every build.
namespace loci::fuzz {

struct Target {
  std::string_view name;  ///< also of its folder in tests/fuzz/corpus
  /// Must return for every input: whether the reader accepts it. What it throws, and what ends the process, is a fault.
  bool (*run)(std::string_view input);
};

/// All targets of the program, by name.
std::vector<Target> targets();

/// One at namespace scope makes a target of a function.
struct Registration {
  Registration(std::string_view name, bool (*run)(std::string_view input));
};

/// Throws std::logic_error that says which promise of the reader is broken.
void expect(bool holds, std::string_view promise);

/// Runs a reader that may refuse its input. Only an InputError of one line whose message starts with `name` is a
/// refusal. Returns whether the input was accepted.
template <typename Read>
bool accepted(std::string_view name, const Read& read) {
  try {
    read();
    return true;
  } catch (const InputError& error) {
    const std::string_view message = error.what();
    expect(message.starts_with(name), "the message starts with the name of the file: " + std::string(message));
    const bool plain = std::ranges::none_of(message, [](unsigned char c) { return c < 0x20 || c == 0x7F; });
    expect(plain, "the message is one line without control characters: " + std::string(message));
    return false;
  }
}

/// A folder of this process for readers that take a path; it is removed at the end.
class Folder {
 public:
  Folder();
  ~Folder();
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  const std::filesystem::path& path() const { return path_; }
  /// Replaces the file `name`.
  std::filesystem::path write(std::string_view name, std::string_view bytes) const;
  void clear() const;

 private:
  std::filesystem::path path_;
};

/// An input that holds several files: each after a line "@@ NAME". What comes before the first is named "text".
using Sections = std::map<std::string, std::string, std::less<>>;
Sections sections(std::string_view input);

/// Whether a section may become a file of this name.
bool is_file_name(std::string_view name);

/// Cuts the first line off `input` and returns it.
std::string_view take_line(std::string_view& input);

}  // namespace loci::fuzz
