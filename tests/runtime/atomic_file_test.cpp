#include "runtime/io/atomic_file.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <fstream>

#include "runtime/io/hdf5.h"
#include "runtime/io/npz.h"
#include "runtime/io/safetensors.h"
#include "runtime/io/sha256.h"
#include "runtime/jobs/unit_store.h"
#include "tests/support/errors.h"
#include "tests/support/paths.h"

namespace loci {
namespace {

using test::error_of;
using test::expect_message;
using test::TemporaryDir;
namespace fs = std::filesystem;

TEST(Sha256, KnownDigests) {
  // FIPS 180-2, appendix B
  EXPECT_EQ(sha256_hex(std::string_view("abc")), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(sha256_hex(std::string_view("")), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha256_hex(std::string_view("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq")),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
}

TEST(Sha256, PiecesAndFilesGiveTheSame) {
  const TemporaryDir dir;
  const std::string text(3'000'001, 'x');
  write_file_atomically(dir.file("t"), std::string_view(text));
  EXPECT_EQ(sha256_file(dir.file("t")), sha256_hex(std::string_view(text)));
  Sha256 hash;
  hash.update(std::string_view(text).substr(0, 17)).update(std::string_view(text).substr(17));
  EXPECT_EQ(hash.hex(), sha256_hex(std::string_view(text)));
  expect_message(error_of<InputError>([&] { sha256_file(dir.file("none")); }), {dir.file("none")});
}

TEST(AtomicFile, ReplacesWhole) {
  const TemporaryDir dir;
  write_file_atomically(dir.file("a"), std::string_view("one"));
  write_file_atomically(dir.file("a"), std::string_view("two"));
  EXPECT_EQ(read_text_file(dir.file("a")), "two");
  EXPECT_FALSE(fs::exists(dir.file("a.tmp")));
}

TEST(AtomicFile, NothingStaysWithoutCommit) {
  const TemporaryDir dir;
  write_file_atomically(dir.file("a"), std::string_view("old"));
  {
    const AtomicPath path(dir.file("a"));
    std::ofstream(path.temporary()) << "half";
  }
  EXPECT_EQ(read_text_file(dir.file("a")), "old");
  EXPECT_FALSE(fs::exists(dir.file("a.tmp")));
}

TEST(AtomicFile, BadTargetsAreNamed) {
  const TemporaryDir dir;
  expect_message(error_of<InputError>([&] { write_file_atomically(dir.file("no/a"), std::string_view("x")); }),
                 {dir.file("no/a"), "does not exist"});
  expect_message(error_of<InputError>([&] { write_file_atomically(dir.path(), std::string_view("x")); }),
                 {dir.path().string(), "folder"});
  EXPECT_FALSE(fs::exists(dir.path().string() + ".tmp"));
}

/// Runs `write` in a child whose files may not exceed `limit` bytes: every write beyond fails, as on a full disk.
/// Returns the message of the SystemError that it must throw.
template <typename Write>
std::string on_full_disk(rlim_t limit, const Write& write) {
  std::array<int, 2> ends{};
  EXPECT_EQ(pipe(ends.data()), 0);
  const pid_t child = fork();
  if (child == 0) {
    signal(SIGXFSZ, SIG_IGN);
    const rlimit limits{limit, limit};
    setrlimit(RLIMIT_FSIZE, &limits);
    std::string message = "no error";
    try {
      write();
    } catch (const SystemError& error) {
      message = error.what();
    } catch (const std::exception& error) {
      message = std::string("another kind: ") + error.what();
    }
    const bool written = ::write(ends[1], message.data(), message.size()) >= 0;
    _exit(written ? 0 : 1);
  }
  close(ends[1]);
  std::string message(4096, '\0');
  const ssize_t got = read(ends[0], message.data(), message.size());
  message.resize(static_cast<size_t>(std::max<ssize_t>(got, 0)));
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_TRUE(WIFEXITED(status)) << "killed by signal " << (WIFSIGNALED(status) ? WTERMSIG(status) : 0);
  return message;
}

class FullDisk : public testing::Test {
 protected:
  void SetUp() override { write_file_atomically(target_, std::string_view("old")); }
  void expect_untouched(const std::string& message) {
    expect_message(message, {target_.string(), "nothing was kept"});
    EXPECT_EQ(message.find("another kind"), std::string::npos) << message;
    EXPECT_EQ(read_text_file(target_), "old");
    EXPECT_FALSE(fs::exists(target_.string() + ".tmp"));
  }
  TemporaryDir dir_;
  fs::path target_ = dir_.file("out");
};

TEST_F(FullDisk, Text) {
  const std::string text(100'000, 'x');
  expect_untouched(on_full_disk(10'000, [&] { write_file_atomically(target_, std::string_view(text)); }));
}

TEST_F(FullDisk, Safetensors) {
  const std::vector<float> values(50'000, 1.0f);
  const TensorData tensor{{"a", DType::f32, {50'000}}, std::as_bytes(std::span(values))};
  expect_untouched(on_full_disk(10'000, [&] { write_safetensors(target_, std::span(&tensor, 1)); }));
}

TEST_F(FullDisk, Npz) {
  const std::vector<float> values(500'000, 1.0f);
  expect_untouched(on_full_disk(10'000, [&] {
    NpzWriter writer(target_);
    writer.add("a", values, {500'000});
    writer.finish();
  }));
}

/// A job of three units with data, texts, attributes and scales, as jobs write them.
void run_small_job(const fs::path& output) {
  UnitStore store(output, {{"command", "edit"}}, OnExisting::resume);
  if (store.complete()) return;
  for (int64_t unit = 0; unit < 3; ++unit) {
    if (store.is_done(unit)) continue;
    store.commit(unit, [&](H5File& shard) {
      for (int64_t i = 4 * unit; i < 4 * unit + 4; ++i) {
        const std::string group = fmt::format("/edits/{}", i);
        write_dataset(shard, group + "/u", std::vector<float>(300, static_cast<float>(i)), {300}, {.units = "1"});
        write_strings(shard, group + "/tokens", std::vector<std::string>(20, "a token"), {20});
        write_attribute(shard, group, "prompt", std::string(200, 'p'));
      }
    });
  }
  store.finish([&](H5File& file, const UnitStore::OpenUnit& open_unit) {
    write_dataset(file, "/key", std::vector<int64_t>(300), {300});
    for (int64_t unit = 0; unit < 3; ++unit) {
      const H5File shard = open_unit(unit);
      for (const std::string& name : group_members(shard, "/edits")) {
        copy_object(shard, "/edits/" + name, file, "/edits/" + name);
        attach_scale(file, "/edits/" + name + "/u", 0, "/key", "key");
      }
    }
  });
}

TEST_F(FullDisk, JobsOfEverySizeEndWithASentenceAndGoOn) {
  const fs::path whole = dir_.file("whole.h5"), output = dir_.file("output.h5");
  run_small_job(whole);
  const auto size = static_cast<rlim_t>(fs::file_size(whole));
  int refused = 0;
  for (rlim_t limit = 500; limit < size + size / 20; limit += size / 16) {
    const std::string message = on_full_disk(limit, [&] { run_small_job(output); });
    if (message != "no error") {
      ++refused;
      expect_message(message, {output.string(), "nothing was kept", "File too large", "run the same command again"});
      EXPECT_FALSE(fs::exists(output));
      for (const auto& entry : fs::recursive_directory_iterator(dir_.path()))
        EXPECT_NE(entry.path().extension(), ".tmp") << entry.path();
    }
    run_small_job(output);
    EXPECT_EQ(read_text_file(output), read_text_file(whole)) << limit;
    fs::remove(output);
  }
  EXPECT_GT(refused, 14);
}

TEST_F(FullDisk, Hdf5) {
  const std::vector<float> values(500'000, 1.0f);
  const std::string message = on_full_disk(10'000, [&] {
    write_hdf5_atomically(target_, [&](H5File& file) { write_dataset(file, "/a", values, {500'000}); });
  });
  expect_message(message, {"File too large", "ulimit -f"});
  expect_untouched(message);
}

TEST_F(FullDisk, Hdf5Metadata) {
  const std::string message = on_full_disk(1'000, [&] {
    write_hdf5_atomically(target_, [&](H5File& file) {
      for (int i = 0; i < 300; ++i) create_group(file, "/group" + std::to_string(i));
    });
  });
  expect_message(message, {"File too large", "ulimit -f"});
  expect_untouched(message);
}

}  // namespace
}  // namespace loci
