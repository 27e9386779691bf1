#include "tests/fuzz/target.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>

namespace loci::fuzz {
namespace {

std::vector<Target>& registered() {
  static std::vector<Target> all;
  return all;
}

}  // namespace

std::vector<Target> targets() {
  std::vector<Target> all = registered();
  std::sort(all.begin(), all.end(), [](const Target& a, const Target& b) { return a.name < b.name; });
  return all;
}

Registration::Registration(std::string_view name, bool (*run)(std::string_view input)) {
  registered().push_back({name, run});
}

void expect(bool holds, std::string_view promise) {
  if (!holds) throw std::logic_error(fmt::format("not so: {}", promise));
}

Folder::Folder() {
  std::string pattern = (std::filesystem::temp_directory_path() / "loci-fuzz-XXXXXX").string();
  expect(::mkdtemp(pattern.data()) != nullptr, "a folder can be made");
  path_ = pattern;
}

Folder::~Folder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::filesystem::path Folder::write(std::string_view name, std::string_view bytes) const {
  const std::filesystem::path file = path_ / name;
  std::ofstream out(file, std::ios::binary | std::ios::trunc);
  out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  out.close();
  expect(out.good(), "a file can be written");
  return file;
}

void Folder::clear() const {
  for (const auto& entry : std::filesystem::directory_iterator(path_)) std::filesystem::remove_all(entry.path());
}

Sections sections(std::string_view input) {
  Sections made;
  std::string* current = &made["text"];
  while (!input.empty()) {
    const std::size_t end = std::min(input.find('\n'), input.size() - 1) + 1;
    std::string_view line = input.substr(0, end);
    input.remove_prefix(end);
    if (line.starts_with("@@ ")) {
      if (line.ends_with('\n')) line.remove_suffix(1);
      current = &made[std::string(line.substr(3))];
    } else {
      current->append(line);
    }
  }
  return made;
}

bool is_file_name(std::string_view name) {
  return !name.empty() && name.size() <= 100 && name != "." && name != ".." &&
         name.find_first_of(std::string_view("/\0", 2)) == name.npos;
}

std::string_view take_line(std::string_view& input) {
  const std::size_t end = std::min(input.find('\n'), input.size());
  const std::string_view line = input.substr(0, end);
  input.remove_prefix(std::min(end + 1, input.size()));
  return line;
}

}  // namespace loci::fuzz
