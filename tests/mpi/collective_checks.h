#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "runtime/error.h"
#include "runtime/ranks/communicator.h"

/// The body of the tests of every Communicator: each rank runs it; an Error tells what is wrong.
namespace loci::test {

using Bytes = std::vector<std::byte>;

/// What rank `from` sends to rank `to` in a test: no two positions or pairs alike for long.
inline std::byte sent_byte(int from, int to, size_t position) {
  const uint64_t mixed = (position + 1) * 0x9E3779B97F4A7C15u + static_cast<uint64_t>(from * 131 + to * 17);
  return static_cast<std::byte>(mixed >> 29);
}

/// `blocks` blocks of `bytes` bytes; `value` is of block and position.
template <typename Value>
Bytes blocks_of(int blocks, size_t bytes, const Value& value) {
  Bytes data(static_cast<size_t>(blocks) * bytes);
  for (int block = 0; block < blocks; ++block)
    for (size_t i = 0; i < bytes; ++i) data[static_cast<size_t>(block) * bytes + i] = value(block, i);
  return data;
}

inline void expect_same(const Bytes& received, const Bytes& expected, const Communicator& ranks,
                        const std::string& call) {
  const auto differs = std::mismatch(received.begin(), received.end(), expected.begin(), expected.end());
  require<Error>(differs.first == received.end() && differs.second == expected.end(),
                 "{}: rank {} of {} received a wrong byte {} of {}", call, ranks.rank(), ranks.size(),
                 differs.first - received.begin(), expected.size());
}

inline void check_broadcasts(Communicator& ranks, size_t bytes) {
  for (int root = 0; root < ranks.size(); ++root) {
    const auto value = [&](int, size_t i) { return sent_byte(root, 0, i); };
    Bytes data = ranks.rank() == root ? blocks_of(1, bytes, value) : Bytes(bytes, std::byte{0xEE});
    ranks.broadcast(data, root, "the broadcast of bytes");
    expect_same(data, blocks_of(1, bytes, value), ranks, "broadcast");
  }
}

inline void check_all_gather(Communicator& ranks, size_t bytes) {
  const auto value = [](int from, size_t i) { return sent_byte(from, 0, i); };
  const Bytes own = blocks_of(1, bytes, [&](int, size_t i) { return value(ranks.rank(), i); });
  Bytes all(bytes * static_cast<size_t>(ranks.size()), std::byte{0xEE});
  ranks.all_gather(own, all, "the all-gather of bytes");
  expect_same(all, blocks_of(ranks.size(), bytes, value), ranks, "all-gather");
}

inline void check_all_to_all(Communicator& ranks, size_t bytes) {
  const int rank = ranks.rank();
  const Bytes own = blocks_of(ranks.size(), bytes, [&](int to, size_t i) { return sent_byte(rank, to, i); });
  Bytes received(own.size(), std::byte{0xEE});
  ranks.all_to_all(own, received, "the exchange of bytes");
  expect_same(received, blocks_of(ranks.size(), bytes, [&](int from, size_t i) { return sent_byte(from, rank, i); }),
              ranks, "all-to-all");
}

inline void check_conveniences(Communicator& ranks) {
  for (const std::string& text : {std::string(), std::string("configuration"), std::string(100000, 'x')}) {
    std::string received = ranks.is_root() ? text : "something else";
    ranks.broadcast(received, 0, "the broadcast of a text");
    require<Error>(received == text, "rank {} received another text", ranks.rank());
  }
  const int last = ranks.size() - 1;
  double value = ranks.rank() == last ? 0.1 : -1;
  ranks.broadcast_value(value, last, "the broadcast of a number");
  require<Error>(value == 0.1, "rank {} received {}, not 0.1", ranks.rank(), value);
  const std::vector<int64_t> squares = ranks.all_gather_value(int64_t{ranks.rank()} * ranks.rank(), "the squares");
  for (int64_t rank = 0; rank <= last; ++rank)
    require<Error>(squares[rank] == rank * rank, "rank {} received a wrong square", ranks.rank());
  const int code = ranks.agree(ranks.rank() == last / 2 ? 75 : 0);
  require<Error>(code == 75, "rank {} agreed to {}, not 75", ranks.rank(), code);
}

/// Many small messages, none in another's place.
inline void check_order(Communicator& ranks) {
  for (int message = 0; message < 300; ++message) {
    const int root = message % ranks.size();
    int received = ranks.rank() == root ? message : -1;
    ranks.broadcast_value(received, root, "one of many messages");
    require<Error>(received == message, "rank {} received message {} in place of {}", ranks.rank(), received, message);
  }
}

/// Every rank leaves a file before the barrier and finds all of them after it.
inline void check_barrier(Communicator& ranks) {
  namespace fs = std::filesystem;
  std::string folder;
  if (ranks.is_root()) {
    folder = (fs::temp_directory_path() / "loci-barrier-XXXXXX").string();
    require<Error>(mkdtemp(folder.data()) != nullptr, "no temporary folder {}", folder);
  }
  ranks.broadcast(folder, 0, "the name of the folder");
  for (int round = 0; round < 20; ++round) {
    const auto file = [&](int rank) { return fmt::format("{}/{}.{}", folder, round, rank); };
    std::ofstream(file(ranks.rank())) << "here";
    ranks.barrier("the barrier after the files");
    for (int rank = 0; rank < ranks.size(); ++rank)
      require<Error>(fs::exists(file(rank)), "rank {} left the barrier before rank {} came", ranks.rank(), rank);
  }
  ranks.barrier("the end of the check");
  if (ranks.is_root()) fs::remove_all(folder);
}

/// `large`: the most bytes of a block.
inline void check_collectives(Communicator& ranks, size_t large) {
  require<Error>(ranks.rank() >= 0 && ranks.rank() < ranks.size(), "rank {} of {}", ranks.rank(), ranks.size());
  require<Error>(ranks.local_rank() >= 0 && ranks.local_rank() < ranks.local_size(), "local rank {} of {}",
                 ranks.local_rank(), ranks.local_size());
  require<Error>(ranks.is_root() == (ranks.rank() == 0), "rank {} is the root", ranks.rank());
  for (const size_t bytes : {size_t{0}, size_t{1}, size_t{7}, size_t{1000}, size_t{4096}, large}) {
    check_broadcasts(ranks, bytes);
    check_all_gather(ranks, bytes);
    check_all_to_all(ranks, bytes);
  }
  check_conveniences(ranks);
  check_order(ranks);
  check_barrier(ranks);
}

}  // namespace loci::test
