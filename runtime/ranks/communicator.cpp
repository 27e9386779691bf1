#include "runtime/ranks/communicator.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>

#include "runtime/error.h"

namespace loci {
namespace {

constexpr size_t kMostPieceBytes = size_t{1} << 30;

bool overlap(std::span<const std::byte> a, std::span<const std::byte> b) {
  const std::less<> before;
  return !a.empty() && !b.empty() && before(a.data(), b.data() + b.size()) && before(b.data(), a.data() + a.size());
}

}  // namespace

Communicator::Communicator(const Seat& seat, const CommunicatorOptions& options) : seat_(seat), options_(options) {
  set_time_limit(options.time_limit);
  require<ShapeError>(options.piece_bytes >= 1 && options.piece_bytes <= kMostPieceBytes,
                      "pieces of messages are {} bytes; between 1 and {} are possible", options.piece_bytes,
                      kMostPieceBytes);
}

void Communicator::set_time_limit(std::chrono::milliseconds limit) {
  require<InputError>(limit >= std::chrono::milliseconds(1) && limit <= std::chrono::hours(30 * 24),
                      "ranks cannot wait {} s for each other; give a time between 0.001 s and 2592000 s (30 days)",
                      std::chrono::duration<double>(limit).count());
  options_.time_limit = limit;
}

void Communicator::barrier(std::string_view what) { run({Operation::barrier, what, 0, 0, nullptr, nullptr}); }

void Communicator::broadcast(std::span<std::byte> data, int root, std::string_view what) {
  require<ShapeError>(root >= 0 && root < size(), "{}: rank {} is its root, but there are {} ranks", what, root,
                      size());
  run({Operation::broadcast, what, root, data.size(), nullptr, data.data()});
}

void Communicator::all_gather(std::span<const std::byte> own, std::span<std::byte> all, std::string_view what) {
  const auto ranks = static_cast<size_t>(size());
  require<ShapeError>(all.size() == own.size() * ranks, "{}: {} bytes from each of {} ranks do not make {} bytes", what,
                      own.size(), ranks, all.size());
  require<ShapeError>(!overlap(own, all), "{}: what is sent and what is received overlap", what);
  run({Operation::all_gather, what, 0, own.size(), own.data(), all.data()});
}

void Communicator::all_to_all(std::span<const std::byte> own, std::span<std::byte> received, std::string_view what) {
  const auto ranks = static_cast<size_t>(size());
  require<ShapeError>(own.size() == received.size(), "{}: {} bytes are sent and {} received; they must be as many",
                      what, own.size(), received.size());
  require<ShapeError>(own.size() % ranks == 0, "{}: {} bytes are not equal blocks for {} ranks", what, own.size(),
                      ranks);
  require<ShapeError>(!overlap(own, received), "{}: what is sent and what is received overlap", what);
  run({Operation::all_to_all, what, 0, own.size() / ranks, own.data(), received.data()});
}

void Communicator::broadcast(std::string& text, int root, std::string_view what) {
  uint64_t length = text.size();
  broadcast_value(length, root, what);
  text.resize(length);
  broadcast(std::as_writable_bytes(std::span(text)), root, what);
}

int Communicator::agree(int code, std::string_view what) {
  const std::vector<int> codes = all_gather_value(code, what);
  return *std::max_element(codes.begin(), codes.end());
}

bool Communicator::same(const Call& a, const Call& b) {
  return a.operation == b.operation && a.root == b.root && a.bytes == b.bytes && a.what == b.what;
}

std::string Communicator::describe(const Call& call) {
  switch (call.operation) {
    case Operation::barrier:
      return fmt::format("{} (barrier)", call.what);
    case Operation::broadcast:
      return fmt::format("{} (broadcast of {} bytes from rank {})", call.what, call.bytes, call.root);
    case Operation::all_gather:
      return fmt::format("{} (all-gather of {} bytes a rank)", call.what, call.bytes);
    case Operation::all_to_all:
      break;
  }
  return fmt::format("{} (all-to-all of {} bytes a block)", call.what, call.bytes);
}

void Communicator::throw_lost(const Call& call, const std::vector<int>& missing) const {
  const double seconds = std::chrono::duration<double>(time_limit()).count();
  if (missing.empty())
    throw_error<LostRankError>(
        "all {} ranks came to {}, but it did not end within {:g} s: see the network and the "
        "ranks' logs, then run the same command again to continue",
        size(), call.what, seconds);
  const bool one = missing.size() == 1;
  throw_error<LostRankError>(
      "{} {} of {} did not come to {} within {:g} s; {}, then run the same command again to continue",
      one ? "rank" : "ranks", fmt::join(missing, ", "), size(), call.what, seconds,
      one ? "it hangs or was lost: see its log" : "they hang or were lost: see their logs");
}

SelfCommunicator::SelfCommunicator(const CommunicatorOptions& options) : Communicator({}, options) {}

void SelfCommunicator::run(const Call& call) {
  if (call.own && call.bytes > 0) std::memcpy(call.received, call.own, call.bytes);
}

void SelfCommunicator::abort(int exit_code) {
  std::fflush(nullptr);
  std::_Exit(exit_code);
}

}  // namespace loci
