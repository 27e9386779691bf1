#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace loci {

struct CommunicatorOptions {
  /// How long a collective waits for ranks that do not come.
  std::chrono::milliseconds time_limit = std::chrono::minutes(30);
  /// MPI gets longer messages in pieces of this many bytes; at most 2^30.
  size_t piece_bytes = size_t{64} << 20;
};

/// One of the `size` ranks that work on a job together, and what they say to each other. All members but rank(),
/// size(), kind() and the like are collective: each rank makes the same calls, with the same sizes, in the same order.
/// A rank's calls come from one thread.
///
/// `what` names the call in errors, with its article: "the broadcast of the weights", "the end of the sweep". It is the
/// same on all ranks.
///
/// Errors of every collective: ShapeError where this rank's sizes do not fit or the ranks make different calls;
/// LostRankError, which names the ranks, where some did not come within the time limit. After an error the communicator
/// is of no more use: the job is to end.
class Communicator {
 public:
  virtual ~Communicator() = default;
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  int rank() const { return seat_.rank; }
  int size() const { return seat_.size; }
  /// Among the ranks on this machine: which one this is, and how many there are.
  int local_rank() const { return seat_.local_rank; }
  int local_size() const { return seat_.local_size; }
  bool is_root() const { return seat_.rank == 0; }
  /// "self", "threads" or "mpi".
  virtual std::string_view kind() const = 0;

  std::chrono::milliseconds time_limit() const { return options_.time_limit; }
  /// Not collective, but to be set alike on all ranks. Throws InputError for a limit under 1 ms or over 30 days.
  void set_time_limit(std::chrono::milliseconds limit);

  /// Returns when all ranks are here.
  void barrier(std::string_view what);
  /// `data` of the root goes to all.
  void broadcast(std::span<std::byte> data, int root, std::string_view what);
  /// `all`, size() times as long as `own`, becomes the ranks' `own` in the order of ranks. They do not overlap.
  void all_gather(std::span<const std::byte> own, std::span<std::byte> all, std::string_view what);
  /// Both spans are size() blocks of equal length. Block r of `own` goes to rank r; block r of `received` came from
  /// rank r. They do not overlap.
  void all_to_all(std::span<const std::byte> own, std::span<std::byte> received, std::string_view what);

  /// The root's text, of any length, goes to all.
  void broadcast(std::string& text, int root, std::string_view what);
  template <typename T>
  void broadcast_value(T& value, int root, std::string_view what) {
    static_assert(std::is_trivially_copyable_v<T>);
    broadcast(std::as_writable_bytes(std::span(&value, 1)), root, what);
  }
  /// Every rank's value, in the order of ranks.
  template <typename T>
  std::vector<T> all_gather_value(const T& value, std::string_view what) {
    static_assert(std::is_trivially_copyable_v<T>);
    std::vector<T> values(static_cast<size_t>(size()));
    all_gather(std::as_bytes(std::span(&value, 1)), std::as_writable_bytes(std::span(values)), what);
    return values;
  }
  /// The largest of the ranks' codes: the exit code of the job.
  int agree(int code, std::string_view what = "the agreement about exit codes");

  /// Throws where another rank of this process has failed. Not collective: for the pauses between units of work. Ranks
  /// in other processes end with the job.
  virtual void check_peers() {}

  /// Ends all ranks of the job with this exit code, at once: no destructor runs. Not collective.
  [[noreturn]] virtual void abort(int exit_code) = 0;

 protected:
  struct Seat {
    int rank = 0, size = 1;
    int local_rank = 0, local_size = 1;
  };
  enum class Operation { barrier, broadcast, all_gather, all_to_all };
  /// One rank's part in a collective. `bytes` are those of one block: of all data of a broadcast, of what one rank
  /// sends to one rank else. A broadcast has `received` alone.
  struct Call {
    Operation operation;
    std::string_view what;
    int root;
    size_t bytes;
    const std::byte* own;
    std::byte* received;
  };

  Communicator(const Seat& seat, const CommunicatorOptions& options);
  virtual void run(const Call& call) = 0;

  const CommunicatorOptions& options() const { return options_; }
  /// Whether two ranks make the same call.
  static bool same(const Call& a, const Call& b);
  /// "the broadcast of the weights (broadcast of 8 bytes from rank 0)".
  static std::string describe(const Call& call);
  /// Throws the LostRankError of a call to which these ranks did not come.
  [[noreturn]] void throw_lost(const Call& call, const std::vector<int>& missing) const;

 private:
  Seat seat_;
  CommunicatorOptions options_;
};

/// A job of one rank.
class SelfCommunicator final : public Communicator {
 public:
  explicit SelfCommunicator(const CommunicatorOptions& options = {});
  std::string_view kind() const override { return "self"; }
  [[noreturn]] void abort(int exit_code) override;

 private:
  void run(const Call& call) override;
};

}  // namespace loci
