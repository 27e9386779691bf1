#include "runtime/io/hdf5_checksums.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "runtime/io/atomic_file.h"
#include "runtime/io/hdf5_probe.h"
#include "tests/support/canonical_hash.h"
#include "tests/support/errors.h"
#include "tests/support/paths.h"

namespace loci {
namespace {

using test::error_of;
using test::expect_message;
using test::TemporaryDir;

class Checksums : public testing::Test {
 protected:
  static void write_content(H5File& file) {
    write_dataset(file, "/edits/0/u", std::vector<float>{1, 2, 3, 4, 5, 6}, {2, 3}, {.units = "1"});
    write_dataset(file, "/edits/0/curve", std::vector<double>{0.5, 0.25}, {2});
    write_dataset(file, "/edits/0/ids", std::vector<int32_t>{-1, 2}, {2});
    write_dataset(file, "/edits/0/flags", std::vector<uint8_t>{0, 255}, {2});
    write_dataset(file, "/empty", std::vector<float>{}, {0, 3});
    write_dataset(file, "/one", std::vector<int64_t>{7}, {});
    write_dataset(file, "/layer", std::vector<int64_t>{0, 1, 2}, {3});
    write_strings(file, "/names", std::vector<std::string>{"Rome", "", "Paris"}, {3});
    attach_scale(file, "/edits/0/u", 1, "/layer", "layer");
    write_attribute(file, "/edits/0", "prompt", "The mother tongue of Danielle is");
    write_attribute(file, "/edits/0", "layer", 5);
    write_attribute(file, "/", "kind", "edits");
  }
  /// Writes the file again with other bytes.
  void replace(const std::string& from, const std::string& to) {
    std::string bytes = read_text_file(path_);
    const size_t at = bytes.find(from);
    ASSERT_NE(at, std::string::npos);
    bytes.replace(at, to.size(), to);
    write_file_atomically(path_, std::string_view(bytes));
  }
  template <typename T>
  static std::string bytes_of(T value) {
    return {reinterpret_cast<const char*>(&value), sizeof value};
  }
  void expect_damaged(const std::string& object, const std::function<void(const H5File&)>& read) {
    expect_message(error_of<InputError>([&] { read(H5File::open_read(path_)); }),
                   {path_, object + " does not hold what was written", "make it again"});
    error_of<InputError>([&] { H5File::open_read(path_).verify_all(); });
    EXPECT_NO_THROW(read(H5File::open_unverified(path_)));
  }

  TemporaryDir dir_;
  std::string path_ = dir_.file("x.h5");
};

TEST_F(Checksums, WholeFilesAreRead) {
  write_result_atomically(path_, write_content);
  const H5File file = H5File::open_read(path_);
  EXPECT_NO_THROW(file.verify_all());
  EXPECT_EQ(read_int_attribute(file, "/", "format"), kResultFormat);
  EXPECT_EQ(read_dataset<float>(file, "/edits/0/u").values[5], 6.0f);
  EXPECT_EQ(read_strings(file, "/checksums/path").values.size(), 11u);
}

TEST_F(Checksums, OtherDataIsNamed) {
  write_result_atomically(path_, write_content);
  replace(bytes_of(0.25), bytes_of(0.26));
  expect_damaged("/edits/0/curve", [](const H5File& file) { read_dataset<double>(file, "/edits/0/curve"); });
  const H5File file = H5File::open_read(path_);
  EXPECT_EQ(read_dataset<float>(file, "/edits/0/u").values[5], 6.0f);  // what is whole can be read
}

TEST_F(Checksums, OtherTextsAndAttributesAreNamed) {
  write_result_atomically(path_, write_content);
  replace("Paris", "Pariz");
  expect_damaged("/names", [](const H5File& file) { read_strings(file, "/names"); });
  write_result_atomically(path_, write_content);
  replace("Danielle", "Danielly");
  expect_damaged("/edits/0", [](const H5File& file) { read_string_attribute(file, "/edits/0", "prompt"); });
  expect_damaged("/edits/0", [](const H5File& file) { has_attribute(file, "/edits/0", "anything"); });
  write_result_atomically(path_, write_content);
  replace(std::string("kind\0", 5), "kine");  // an attribute that seems to be missing
  expect_damaged("/", [](const H5File& file) { has_attribute(file, "/", "kind"); });
}

TEST_F(Checksums, RowsAreVerifiedToo) {
  write_result_atomically(path_, write_content);
  replace(bytes_of(6.0f), bytes_of(6.5f));
  expect_damaged("/edits/0/u", [](const H5File& file) {
    std::vector<float> first_row(3);
    read_rows<float>(file, "/edits/0/u", 0, 1, first_row);
  });
}

TEST_F(Checksums, MissingObjectsAreNamed) {
  write_hdf5_atomically(path_, [](H5File& file) {
    write_content(file);
    seal_result(file);
    ASSERT_GE(H5Ldelete(file.id(), "/edits/0/ids", H5P_DEFAULT), 0);
  });
  expect_message(error_of<InputError>([&] { H5File::open_read(path_); }), {path_, "/edits/0/ids is missing"});
}

TEST_F(Checksums, DamagedChecksumsAreNoExcuse) {
  const auto refused = [&](const std::function<void(H5File&)>& damage) {
    write_hdf5_atomically(path_, [&](H5File& file) {
      write_content(file);
      seal_result(file);
      damage(file);
    });
    expect_message(error_of<InputError>([&] { H5File::open_read(path_); }), {path_, "checksums are damaged"});
  };
  refused([](H5File& file) { H5Ldelete(file.id(), "/checksums", H5P_DEFAULT); });
  refused([](H5File& file) { H5Adelete(file.id(), "checksum"); });
  refused([](H5File& file) { write_attribute(file, "/", "checksum", std::string(64, '0')); });
}

TEST_F(Checksums, FilesWithoutThemAreReadAsTheyAre) {
  write_hdf5_atomically(path_, write_content);
  EXPECT_NO_THROW(H5File::open_read(path_).verify_all());
  // As the message says: both removed on purpose, after a change.
  write_hdf5_atomically(path_, [](H5File& file) {
    write_content(file);
    seal_result(file);
    write_attribute(file, "/edits/0", "layer", 6);
    H5Ldelete(file.id(), "/checksums", H5P_DEFAULT);
    H5Adelete(file.id(), "checksum");
  });
  EXPECT_EQ(read_int_attribute(H5File::open_read(path_), "/edits/0", "layer"), 6);
}

TEST_F(Checksums, WhatWasAddedLaterIsRead) {
  write_hdf5_atomically(path_, [](H5File& file) {
    write_content(file);
    seal_result(file);
    write_dataset(file, "/my_notes", std::vector<float>{1}, {1});
  });
  EXPECT_EQ(read_dataset<float>(H5File::open_read(path_), "/my_notes").values[0], 1.0f);
}

TEST_F(Checksums, NewerFormatsAreRefused) {
  write_hdf5_atomically(path_, [](H5File& file) { write_attribute(file, "/", "format", kResultFormat + 1); });
  expect_message(error_of<InputError>([&] { H5File::open_read(path_); }), {path_, "newer loci", "format is 2"});
  write_hdf5_atomically(path_,
                        [](H5File& file) { write_attribute(file, "/", "format", "loci training checkpoint 1"); });
  EXPECT_NO_THROW(H5File::open_read(path_));
}

/// Any flipped bit is refused, or changes nothing.
TEST_F(Checksums, FlippedBitsAreFound) {
  write_result_atomically(path_, write_content);
  const std::string good = read_text_file(path_), hash = test::canonical_hash(path_);
  std::mt19937 random(3);
  int refused = 0;
  for (int trial = 0; trial < 60; ++trial) {
    std::string bytes = good;
    bytes[random() % bytes.size()] ^= static_cast<char>(1 << random() % 8);
    write_file_atomically(path_, std::string_view(bytes));
    try {
      probe_hdf5(path_, 5);
      EXPECT_EQ(test::canonical_hash(path_), hash) << trial;
    } catch (const InputError& error) {
      expect_message(error.what(), {path_});
      ++refused;
    }
  }
  EXPECT_GT(refused, 10);
}

}  // namespace
}  // namespace loci
