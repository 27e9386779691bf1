#include "runtime/io/hdf5.h"

#include <gtest/gtest.h>

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <random>
#include <thread>

#include "runtime/io/atomic_file.h"
#include "runtime/io/hdf5_probe.h"
#include "runtime/jobs/provenance.h"
#include "tests/support/errors.h"
#include "tests/support/paths.h"

namespace loci {
namespace {

using test::error_of;
using test::expect_message;
using test::TemporaryDir;

class Hdf5 : public testing::Test {
 protected:
  TemporaryDir dir_;
  std::string path_ = dir_.file("x.h5");
};

void write_sample(const std::string& path) {
  write_hdf5_atomically(path, [](H5File& file) {
    write_dataset(file, "/edits/0/u", std::vector<float>{1, 2, 3, 4, 5, 6}, {2, 3},
                  {.units = "1", .long_name = "left vector"});
    write_dataset(file, "/d", std::vector<double>{0.1}, {});
    write_dataset(file, "/i32", std::vector<int32_t>{-1, 2}, {2});
    write_dataset(file, "/i64", std::vector<int64_t>{-1, int64_t{1} << 60}, {2});
    write_dataset(file, "/u8", std::vector<uint8_t>{0, 255}, {2});
    write_dataset(file, "/empty", std::vector<float>{}, {0, 3});
    const std::vector<std::string> names{"caf\xc3\xa9", "", "x"};
    write_strings(file, "/names", names, {3});
    write_dataset(file, "/layers", std::vector<int64_t>{0, 1, 2}, {3}, {.units = "1", .long_name = "layer"});
    attach_scale(file, "/edits/0/u", 1, "/layers", "layer");
    label_axis(file, "/edits/0/u", 0, "token");
    write_attribute(file, "/", "text", "caf\xc3\xa9");
    write_attribute(file, "/", "int", 42);
    write_attribute(file, "/", "yes", true);
    write_attribute(file, "/", "double", 0.1);
    write_attribute(file, "/edits", "list", std::span<const std::string>(names));
    write_attribute(file, "/edits/0", "ints", std::span<const int64_t>(std::vector<int64_t>{1, 2, 3}));
    write_attribute(file, "/edits/0/u", "doubles", std::span<const double>(std::vector<double>{0.5, 1.5}));
    write_attribute(file, "/", "none", std::span<const std::string>());
  });
}

TEST_F(Hdf5, RoundTrip) {
  write_sample(path_);
  EXPECT_FALSE(std::filesystem::exists(path_ + ".tmp"));
  const H5File file = H5File::open_read(path_);
  const auto u = read_dataset<float>(file, "/edits/0/u", {2, kAnyExtent});
  EXPECT_EQ(u.shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(u.values, (std::vector<float>{1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(read_dataset<double>(file, "/edits/0/u").values[5], 6.0);
  EXPECT_EQ(read_dataset<double>(file, "/d", {}).values, std::vector<double>{0.1});
  EXPECT_EQ(read_dataset<int32_t>(file, "/i32").values, (std::vector<int32_t>{-1, 2}));
  EXPECT_EQ(read_dataset<int64_t>(file, "/i32").values, (std::vector<int64_t>{-1, 2}));
  EXPECT_EQ(read_dataset<int64_t>(file, "/i64").values[1], int64_t{1} << 60);
  EXPECT_EQ(read_dataset<uint8_t>(file, "/u8").values, (std::vector<uint8_t>{0, 255}));
  EXPECT_EQ(read_dataset<int64_t>(file, "/u8").values[1], 255);
  EXPECT_EQ(read_dataset<float>(file, "/empty").shape, (std::vector<int64_t>{0, 3}));
  EXPECT_EQ(read_strings(file, "/names").values, (std::vector<std::string>{"caf\xc3\xa9", "", "x"}));
  EXPECT_EQ(read_string_attribute(file, "/", "text"), "caf\xc3\xa9");
  EXPECT_EQ(read_int_attribute(file, "/", "int"), 42);
  EXPECT_EQ(read_int_attribute(file, "/", "yes"), 1);
  EXPECT_EQ(read_double_attribute(file, "/", "double"), 0.1);
  EXPECT_EQ(read_double_attribute(file, "/", "int"), 42.0);
  EXPECT_EQ(read_strings_attribute(file, "/edits", "list").size(), 3u);
  EXPECT_EQ(read_strings_attribute(file, "/", "none").size(), 0u);
  EXPECT_EQ(read_ints_attribute(file, "/edits/0", "ints"), (std::vector<int64_t>{1, 2, 3}));
  EXPECT_EQ(read_doubles_attribute(file, "/edits/0/u", "doubles"), (std::vector<double>{0.5, 1.5}));
  EXPECT_EQ(read_string_attribute(file, "/edits/0/u", "units"), "1");
  EXPECT_EQ(attribute_names(file, "/"), (std::vector<std::string>{"double", "int", "none", "text", "yes"}));
  const DatasetInfo info = dataset_info(file, "/edits/0/u");
  EXPECT_EQ(info.kind, H5Kind::floating);
  EXPECT_EQ(info.item_size, 4);
}

TEST_F(Hdf5, GroupsAreListedByNumber) {
  write_hdf5_atomically(path_, [](H5File& file) {
    for (const char* name : {"/g/10", "/g/9", "/g/b", "/g/0", "/g/a"}) create_group(file, name);
    create_group(file, "/g/9");
  });
  const H5File file = H5File::open_read(path_);
  EXPECT_EQ(group_members(file, "/g"), (std::vector<std::string>{"0", "9", "10", "a", "b"}));
  EXPECT_TRUE(h5_exists(file, "/g/10"));
  EXPECT_FALSE(h5_exists(file, "/g/11"));
  EXPECT_FALSE(h5_exists(file, "/nothing/at/all"));
  EXPECT_TRUE(h5_is_group(file, "/"));
}

TEST_F(Hdf5, RowsAreRead) {
  write_hdf5_atomically(path_, [](H5File& file) {
    write_dataset(file, "/rows", std::vector<float>{0, 0, 1, 2, 3, 4, 0, 0}, {4, 2});
  });
  const H5File file = H5File::open_read(path_);
  std::vector<float> rows(4);
  read_rows<float>(file, "/rows", 1, 2, rows);
  EXPECT_EQ(rows, (std::vector<float>{1, 2, 3, 4}));
  expect_message(error_of<ShapeError>([&] { read_rows<float>(file, "/rows", 3, 2, rows); }),
                 {"/rows", "outside its 4"});
  expect_message(error_of<ShapeError>([&] { read_rows<float>(file, "/rows", 0, 3, rows); }), {"got 4 values"});
}

TEST_F(Hdf5, ObjectsAreCopied) {
  write_sample(path_);
  const H5File from = H5File::open_read(path_);
  write_hdf5_atomically(dir_.file("y.h5"), [&](H5File& to) { copy_object(from, "/edits/0", to, "/merged/7"); });
  const H5File to = H5File::open_read(dir_.file("y.h5"));
  EXPECT_EQ(read_dataset<float>(to, "/merged/7/u").values.size(), 6u);
  EXPECT_EQ(read_ints_attribute(to, "/merged/7", "ints").size(), 3u);
}

TEST_F(Hdf5, CopiesGetScalesOfTheirOwn) {
  write_sample(path_);
  const H5File from = H5File::open_read(path_);
  write_hdf5_atomically(dir_.file("y.h5"), [&](H5File& to) {
    write_dataset(to, "/layers", std::vector<int64_t>{3, 4, 5}, {3});
    copy_object(from, "/edits/0", to, "/edits/0");
    EXPECT_EQ(attribute_names(to, "/edits/0/u"),
              (std::vector<std::string>{"DIMENSION_LABELS", "doubles", "long_name", "units"}));
    attach_scale(to, "/edits/0/u", 1, "/layers", "layer");
  });
  EXPECT_TRUE(has_attribute(H5File::open_read(dir_.file("y.h5")), "/edits/0/u", "DIMENSION_LIST"));
}

TEST_F(Hdf5, AttributesAreReplaced) {
  write_hdf5_atomically(path_, [](H5File& file) {
    write_attribute(file, "/", "text", "one");
    write_attribute(file, "/", "text", "other");
  });
  EXPECT_EQ(read_string_attribute(H5File::open_read(path_), "/", "text"), "other");
}

TEST_F(Hdf5, WrongUseNamesFileAndObject) {
  write_sample(path_);
  const H5File file = H5File::open_read(path_);
  const auto input = [&](const auto& run, const std::vector<std::string>& parts) {
    const std::string message = error_of<InputError>(run);
    expect_message(message, {path_});
    expect_message(message, parts);
  };
  input([&] { read_dataset<float>(file, "/none"); }, {"/none is missing"});
  input([&] { read_dataset<float>(file, "/none/deeper"); }, {"/none/deeper is missing"});
  input([&] { read_dataset<float>(file, "/d/child"); }, {"/d/child is missing"});
  input([&] { read_dataset<float>(file, "/edits"); }, {"/edits", "expected a dataset"});
  input([&] { read_dataset<float>(file, "/names"); }, {"/names", "strings, expected numbers"});
  input([&] { read_dataset<int64_t>(file, "/d"); }, {"/d", "expected integers"});
  input([&] { read_dataset<int32_t>(file, "/i64"); }, {"/i64", "64 bits", "at most 32 bits"});
  input([&] { read_dataset<float>(file, "/edits/0/u", {2}); }, {"/edits/0/u", "[2, 3]", "expected [2]"});
  input([&] { read_dataset<float>(file, "/edits/0/u", {kAnyExtent, 4}); }, {"expected [any, 4]"});
  input([&] { read_strings(file, "/d"); }, {"/d", "expected strings"});
  input([&] { group_members(file, "/d"); }, {"/d", "expected a group"});
  input([&] { group_members(file, "/none"); }, {"/none is missing"});
  input([&] { dataset_info(file, "/none"); }, {"/none is missing"});
  input([&] { read_string_attribute(file, "/", "absent"); }, {"\"absent\"", "is missing"});
  input([&] { read_string_attribute(file, "/", "int"); }, {"\"int\"", "expected strings"});
  input([&] { read_int_attribute(file, "/", "text"); }, {"\"text\"", "expected integers"});
  input([&] { read_int_attribute(file, "/", "double"); }, {"\"double\"", "expected integers"});
  input([&] { read_int_attribute(file, "/edits/0", "ints"); }, {"\"ints\"", "3 values, expected one"});
  input([&] { read_string_attribute(file, "/none", "x"); }, {"/none is missing"});
}

TEST_F(Hdf5, WritersRefuseWhatDoesNotFit) {
  const auto write = [&](const auto& body) { return [&, body] { write_hdf5_atomically(path_, body); }; };
  expect_message(error_of<ShapeError>(write([](H5File& f) { write_dataset(f, "/a", std::vector<float>{1}, {2}); })),
                 {"/a", "[2]"});
  expect_message(error_of<SystemError>(write([](H5File& f) {
                   write_dataset(f, "/a", std::vector<float>{1}, {1});
                   write_dataset(f, "/a", std::vector<float>{1}, {1});
                 })),
                 {"/a", "exists already"});
  expect_message(error_of<InputError>(write([](H5File& f) {
                   const std::vector<std::string> bad{std::string("a\0b", 3)};
                   write_strings(f, "/s", bad, {1});
                 })),
                 {"/s", "zero byte"});
  expect_message(error_of<InputError>(write([](H5File& f) {
                   write_dataset(f, "/a", std::vector<float>{1, 2}, {2});
                   write_dataset(f, "/scale", std::vector<int64_t>{1, 2, 3}, {3});
                   attach_scale(f, "/a", 0, "/scale", "x");
                 })),
                 {"/scale", "needs [2]"});
  EXPECT_TRUE(std::filesystem::is_empty(dir_.path()));
}

// ---- files that are none, or damaged ----

TEST_F(Hdf5, FilesThatAreNone) {
  const auto refused = [&](const std::string& bytes) {
    write_file_atomically(path_, std::string_view(bytes));
    expect_message(error_of<InputError>([&] { H5File::open_read(path_); }), {path_});
    expect_message(error_of<InputError>([&] { H5File::open_unverified(path_); }), {path_});
    expect_message(error_of<InputError>([&] { probe_hdf5(path_); }), {path_});
  };
  refused("");
  refused("hello");
  refused(std::string(10'000, '\0'));
  refused("\x89HDF\r\n\x1a");
  refused("\x89HDF\r\n\x1a\n");
  refused("\x89HDF\r\n\x1a\n" + std::string(1000, '\xff'));
  expect_message(error_of<InputError>([&] { H5File::open_read(dir_.file("none")); }), {"none", "does not exist"});
  expect_message(error_of<InputError>([&] { H5File::open_read(dir_.path()); }), {"not a file"});
}

TEST_F(Hdf5, TruncatedAnywhere) {
  write_sample(path_);
  const std::string bytes = read_text_file(path_);
  for (size_t size = 8; size < bytes.size(); size += bytes.size() / 23) {
    write_file_atomically(path_, std::string_view(bytes).substr(0, size));
    expect_message(error_of<InputError>([&] { probe_hdf5(path_); }), {path_});
  }
}

TEST_F(Hdf5, ProbeTakesGoodFiles) {
  write_sample(path_);
  EXPECT_NO_THROW(probe_hdf5(path_));
}

TEST_F(Hdf5, AFileThatWasFoundWellIsNotProbedAgainUntilItChanges) {
  write_sample(path_);
  probe_hdf5(path_);
  std::atomic<bool> done = false;
  std::vector<std::thread> readers;
  for (int t = 0; t < 3; ++t)
    readers.emplace_back([&] {
      while (!done) read_dataset<int64_t>(H5File::open_read(path_), "/i64");
    });
  for (int trial = 0; trial < 100; ++trial) EXPECT_NO_THROW(probe_hdf5(path_));  // a child would wait for the readers
  done = true;
  for (std::thread& reader : readers) reader.join();
  const std::string bytes = read_text_file(path_);
  write_file_atomically(path_, std::string_view(bytes).substr(0, bytes.size() / 2));
  expect_message(error_of<InputError>([&] { probe_hdf5(path_); }), {path_});
}

TEST_F(Hdf5, ProbeSurvivesRandomDamage) {
  write_sample(path_);
  const std::string good = read_text_file(path_);
  std::mt19937 random(1);
  int refused = 0;
  for (int trial = 0; trial < 60; ++trial) {
    std::string bytes = good;
    for (int flips = 0; flips < 20; ++flips) bytes[random() % bytes.size()] = static_cast<char>(random());
    write_file_atomically(path_, std::string_view(bytes));
    try {
      probe_hdf5(path_, 2);
    } catch (const InputError& error) {
      expect_message(error.what(), {path_});
      ++refused;
    }
  }
  EXPECT_GT(refused, 10);
}

/// A data set in chunks, none of which is stored.
void claim_chunks(H5File& file, const char* path, hsize_t rows) {
  const H5Handle creation(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
  const hsize_t chunk = std::min<hsize_t>(rows, 1024);
  H5Pset_chunk(creation.get(), 1, &chunk);
  const H5Handle space(H5Screate_simple(1, &rows, nullptr), H5Sclose);
  const H5Handle made(
      H5Dcreate2(file.id(), path, H5T_NATIVE_FLOAT, space.get(), H5P_DEFAULT, creation.get(), H5P_DEFAULT), H5Dclose);
  ASSERT_GE(made.get(), 0);
}

TEST_F(Hdf5, ExtentsThatAreNotStoredAreRefused) {
  write_hdf5_atomically(path_, [](H5File& file) {
    claim_chunks(file, "/claims", hsize_t{1} << 40);
    claim_chunks(file, "/small", 10);
  });
  const H5File file = H5File::open_read(path_);
  expect_message(error_of<InputError>([&] { read_dataset<float>(file, "/claims"); }), {"/claims", "claims"});
  expect_message(error_of<InputError>([&] { dataset_info(file, "/claims"); }), {"/claims", "claims"});
  EXPECT_EQ(read_dataset<float>(file, "/small").values, std::vector<float>(10, 0.0f));
  expect_message(error_of<InputError>([&] { probe_hdf5(path_); }), {"/claims"});
}

/// The only child of `process`, once it has one.
pid_t child_of(pid_t process) {
  const std::string path = fmt::format("/proc/{0}/task/{0}/children", process);
  for (int attempt = 0; attempt < 1000; ++attempt) {
    std::ifstream file(path);
    if (pid_t child = 0; file >> child) return child;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return 0;
}

TEST_F(Hdf5, AProbeEndsWithItsProcess) {
  // Looks at many values that are not stored: that takes minutes.
  write_hdf5_atomically(path_, [](H5File& file) {
    for (int i = 0; i < 3000; ++i) claim_chunks(file, fmt::format("/d{}", i).c_str(), hsize_t{1} << 24);
  });
  ASSERT_EQ(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);  // the probe becomes a child of this process
  const pid_t process = fork();
  if (process == 0) {
    probe_hdf5(path_);
    _exit(0);
  }
  const pid_t probe = child_of(process);
  ASSERT_GT(probe, 0);
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  kill(process, SIGKILL);
  ASSERT_EQ(waitpid(process, nullptr, 0), process);
  int status = 0;
  ASSERT_EQ(waitpid(probe, &status, 0), probe);
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << status;
  prctl(PR_SET_CHILD_SUBREAPER, 0);
}

TEST_F(Hdf5, ProvenanceIsWritten) {
  Provenance provenance = current_provenance();
  provenance.weights_sha256 = "abc";
  write_hdf5_atomically(path_, [&](H5File& file) { write_provenance(file, {{"b", 1}, {"a", 2}}, provenance); });
  const H5File file = H5File::open_read(path_);
  EXPECT_EQ(read_string_attribute(file, "/", "config"), R"({"a":2,"b":1})");
  EXPECT_EQ(read_string_attribute(file, "/", "loci_version"), loci_version());
  EXPECT_FALSE(loci_git_commit().empty());
  EXPECT_EQ(read_int_attribute(file, "/", "world_size"), 1);
  EXPECT_EQ(read_string_attribute(file, "/", "weights_sha256"), "abc");
  EXPECT_GE(read_strings_attribute(file, "/", "libraries").size(), 3u);
}

TEST_F(Hdf5, H5pyReadsIt) {
  write_sample(path_);
  write_file_atomically(dir_.file("t.py"), std::string_view(R"(import sys
try:
    import h5py
except ImportError:
    sys.exit(77)
f = h5py.File(sys.argv[1])
assert isinstance(f.attrs['text'], str) and f.attrs['text'] == 'caf\u00e9'
assert f.attrs['int'] == 42 and f.attrs['double'] == 0.1
assert list(f['edits'].attrs['list']) == ['caf\u00e9', '', 'x']
assert all(isinstance(s, str) for s in f['edits'].attrs['list'])
u = f['edits/0/u']
assert u.attrs['units'] == '1' and u.attrs['long_name'] == 'left vector'
assert u[:].tolist() == [[1, 2, 3], [4, 5, 6]]
assert u.dims[0].label == 'token' and u.dims[1].label == 'layer'
assert u.dims[1][0].name == '/layers' and u.dims[1][0][:].tolist() == [0, 1, 2]
assert f['names'].asstr()[:].tolist() == ['caf\u00e9', '', 'x']
assert f['d'][()] == 0.1
)"));
  const int status = std::system(("/usr/bin/python3 " + dir_.file("t.py") + " " + path_ + " >&2").c_str());
  if (WEXITSTATUS(status) == 77) GTEST_SKIP() << "no h5py";
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST_F(Hdf5, WeReadWhatH5pyWrites) {
  write_file_atomically(dir_.file("t.py"), std::string_view(R"(import sys
try:
    import h5py, numpy
except ImportError:
    sys.exit(77)
f = h5py.File(sys.argv[1], 'w')
f['half'] = numpy.array([1.5], dtype=numpy.float16)
f['flags'] = numpy.array([True, False])
f['fixed'] = numpy.array([b'ab', b'c'])
f['text'] = ['x', 'caf\u00e9']
f['u16'] = numpy.array([65535], dtype=numpy.uint16)
f['u64'] = numpy.array([1], dtype=numpy.uint64)
f['big'] = numpy.array([1.5], dtype='>f8')
f['complex'] = numpy.array([1j])
f['null'] = h5py.Empty('f')
f['link'] = h5py.SoftLink('/nowhere')
f['outside'] = h5py.ExternalLink('/etc/passwd', '/x')
f.attrs['s'] = 'caf\u00e9'
f.attrs['i'] = 3
)"));
  const int status = std::system(("/usr/bin/python3 " + dir_.file("t.py") + " " + path_ + " >&2").c_str());
  if (WEXITSTATUS(status) == 77) GTEST_SKIP() << "no h5py";
  ASSERT_EQ(WEXITSTATUS(status), 0);
  const H5File file = H5File::open_read(path_);
  EXPECT_EQ(read_dataset<float>(file, "/half").values, std::vector<float>{1.5f});
  EXPECT_EQ(read_dataset<uint8_t>(file, "/flags").values, (std::vector<uint8_t>{1, 0}));
  EXPECT_EQ(read_strings(file, "/fixed").values, (std::vector<std::string>{"ab", "c"}));
  EXPECT_EQ(read_strings(file, "/text").values[1], "caf\xc3\xa9");
  EXPECT_EQ(read_dataset<int32_t>(file, "/u16").values, std::vector<int32_t>{65535});
  EXPECT_EQ(read_dataset<double>(file, "/big").values, std::vector<double>{1.5});
  EXPECT_EQ(read_string_attribute(file, "/", "s"), "caf\xc3\xa9");
  EXPECT_EQ(read_int_attribute(file, "/", "i"), 3);
  expect_message(error_of<InputError>([&] { read_dataset<int64_t>(file, "/u64"); }), {"/u64", "without sign"});
  expect_message(error_of<InputError>([&] { read_dataset<float>(file, "/complex"); }), {"/complex", "another type"});
  expect_message(error_of<InputError>([&] { read_dataset<float>(file, "/null"); }), {"/null", "no data"});
  expect_message(error_of<InputError>([&] { read_dataset<float>(file, "/link"); }), {"/link is missing"});
  expect_message(error_of<InputError>([&] { read_dataset<float>(file, "/outside"); }), {"/outside is missing"});
}

}  // namespace
}  // namespace loci
