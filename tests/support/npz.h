#pragma once

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "runtime/error.h"
#include "runtime/io/npz.h"
#include "runtime/utf8.h"

/// What NumPy writes and loci itself never reads: strings, booleans, matrices by columns. Golden outputs of Python code
/// have them, and so have loci's own exports.
namespace loci::test {

/// The strings of an array of type <U (UTF-32, padded with zeros), as UTF-8.
inline std::vector<std::string> npy_strings(const NpyArray& array) {
  require<InputError>(array.descr.starts_with("<U"), "{}: holds {}, not strings", array.where, array.descr);
  const size_t length = std::stoul(array.descr.substr(2));
  std::vector<std::string> strings(static_cast<size_t>(array.size()));
  for (size_t i = 0; i < strings.size() * length; ++i) {
    char32_t code = 0;
    std::memcpy(&code, &array.bytes.at(4 * i), 4);
    if (code != 0) utf8::append(strings[i / length], code);
  }
  return strings;
}

inline std::string npy_string(const NpyArray& array) { return npy_strings(array).at(0); }

inline bool npy_boolean(const NpyArray& array) {
  require<InputError>(array.descr == "|b1", "{}: holds {}, not booleans", array.where, array.descr);
  return array.bytes.at(0) != std::byte{0};
}

/// The same array in C order.
inline NpyArray npy_by_rows(NpyArray array) {
  if (!array.fortran_order || array.bytes.empty()) return array;
  const std::vector<std::byte> columns = array.bytes;
  const size_t item = columns.size() / static_cast<size_t>(array.size());
  for (int64_t place = 0; place < array.size(); ++place) {
    // The place's indices, last axis first; in `columns` the first axis is the fastest.
    int64_t source = 0, rest = place, stride = array.size();
    for (size_t axis = array.shape.size(); axis-- > 0; rest /= array.shape[axis]) {
      stride /= array.shape[axis];
      source += rest % array.shape[axis] * stride;
    }
    std::memcpy(&array.bytes[place * item], &columns[source * item], item);
  }
  array.fortran_order = false;
  return array;
}

}  // namespace loci::test
