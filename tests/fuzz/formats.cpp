// The formats that other readers build on: JSON, NumPy arrays, text with its compressions.
#include <algorithm>
#include <array>
#include <cstdint>
#include <span>

#include "runtime/io/json.h"
#include "runtime/io/npz.h"
#include "runtime/io/text_reader.h"
#include "tests/fuzz/target.h"

namespace loci::fuzz {
namespace {

bool json(std::string_view input) {
  return accepted("fuzz.json", [&] {
    const Json value = parse_json(input, "fuzz.json");
    expect(parse_json(canonical_json(value), "fuzz.json") == value, "a value comes back from its text");
  });
}
const Registration kJson("json", json);

/// Whether the array is one that loci reads: then every conversion gives all its elements.
bool examine(const NpyArray& array, std::string_view name) {
  expect(std::ranges::all_of(array.shape, [](int64_t extent) { return extent >= 0; }), "extents are not negative");
  return accepted(name, [&] {
    accepted(name, [&] { array.as<int64_t>(); });
    accepted(name, [&] { array.scalar<double>(); });
    expect(std::ssize(array.as<float>()) == array.size(), "conversion keeps the number of elements");
  });
}

bool npy(std::string_view input) {
  bool is_read = false;
  accepted("fuzz.npy", [&] { is_read = examine(parse_npy(std::as_bytes(std::span(input)), "fuzz.npy"), "fuzz.npy"); });
  return is_read;
}
const Registration kNpy("npy", npy);

bool npz(std::string_view input) {
  static const Folder folder;
  const std::string path = folder.write("fuzz.npz", input).string();
  return accepted(path, [&] {
    for (const auto& [name, array] : read_npz(path)) examine(array, path);
  });
}
const Registration kNpz("npz", npz);

/// The first line names the file, whose ending chooses the format.
bool text(std::string_view input) {
  static const Folder folder;
  static constexpr std::array kEndings = {".txt", ".jsonl", ".ndjson", ".json", "", ".gz", ".bz2", ".zst"};
  const std::string_view name = take_line(input);
  std::string ending;
  for (const std::string_view known : kEndings)
    if (name.find(known) != name.npos) ending += known;
  const std::string path = folder.write("fuzz" + ending, input).string();
  return accepted(path, [&] {
    TextReader whole(path), lines(path);
    std::string document;
    TextReader::Line line;
    int64_t last = 0;
    while (whole.next(document)) {
      expect(lines.next_line(line) && line.number > last, "lines are numbered in order");
      last = line.number;
      expect(lines.document_of(line) == document, "a line and its document agree");
    }
    expect(!lines.next_line(line), "lines and documents are as many");
    expect(whole.documents_read() == lines.documents_read(), "they are counted alike");
    expect(whole.bytes_read() <= whole.total_bytes(), "no more is read than there is");
  });
}
const Registration kText("text", text);

}  // namespace
}  // namespace loci::fuzz
