#include "runtime/ranks/communicator_mpi.h"

#include <fmt/format.h>
#include <mpi.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "runtime/clock.h"
#include "runtime/error.h"

namespace loci {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

constexpr int kQuestion = 1;  // tag: "are you there?"
constexpr int kAnswer = 2;    // tag: "I am"

/// `call` names the MPI function or the collective in which it was called.
void check_mpi(int status, std::string_view call) {
  if (status == MPI_SUCCESS) return;
  std::array<char, MPI_MAX_ERROR_STRING> text{};
  int length = 0;
  MPI_Error_string(status, text.data(), &length);
  throw_error<SystemError>("{}: MPI says {}", call, std::string_view(text.data(), static_cast<size_t>(length)));
}

/// How a rank waits: it spins for a while, then sleeps for longer and longer.
struct Patience {
  microseconds spin;
  microseconds first_sleep;
  microseconds longest_sleep;
};
/// For ranks that are still at work: the waiting rank leaves them the cores.
constexpr Patience kForArrival{microseconds(200), microseconds(50), microseconds(2000)};
/// For data of ranks that are all here: MPI moves them only while it is called.
constexpr Patience kForData{microseconds(50000), microseconds(20), microseconds(200)};

/// A piece of a longer block, where blocks lie close together: `bytes` bytes that repeat at the block's distance.
class BlockType {
 public:
  BlockType(size_t bytes, size_t block) {
    MPI_Datatype piece = MPI_DATATYPE_NULL;
    check_mpi(MPI_Type_contiguous(static_cast<int>(bytes), MPI_BYTE, &piece), "MPI_Type_contiguous");
    check_mpi(MPI_Type_create_resized(piece, 0, static_cast<MPI_Aint>(block), &type_), "MPI_Type_create_resized");
    check_mpi(MPI_Type_commit(&type_), "MPI_Type_commit");
    MPI_Type_free(&piece);
  }
  ~BlockType() { MPI_Type_free(&type_); }
  BlockType(const BlockType&) = delete;
  BlockType& operator=(const BlockType&) = delete;

  MPI_Datatype get() const { return type_; }

 private:
  MPI_Datatype type_ = MPI_DATATYPE_NULL;
};

/// Communicators that collectives and questions have to themselves.
struct Channels {
  MPI_Comm collectives = MPI_COMM_NULL;
  MPI_Comm questions = MPI_COMM_NULL;
};

class MpiCommunicator final : public Communicator {
 public:
  MpiCommunicator(const Seat& seat, const Channels& channels, const CommunicatorOptions& options)
      : Communicator(seat, options), channels_(channels) {}

  static Seat seat();
  static Channels open_channels();
  std::string_view kind() const override { return "mpi"; }
  [[noreturn]] void abort(int exit_code) override;

  /// After a collective that failed, requests are open, and MPI_Finalize could wait for ever.
  bool failed() const { return failed_; }

 private:
  void run(const Call& call) override;
  void arrive(const Call& call);
  void move_data(const Call& call);
  void move_piece(const Call& call, size_t offset, size_t bytes);
  void wait(MPI_Request request, const Call& call, const Patience& patience);
  void ask_for_the_missing(MPI_Request request, const Call& call);
  void answer_questions();
  void post(int rank, int tag);

  Channels channels_;
  // Members, because MPI may write to them after a wait that was given up.
  std::array<int64_t, 2> own_names_{};
  std::array<int64_t, 2> largest_names_{};
  bool failed_ = false;
};

Communicator::Seat MpiCommunicator::seat() {
  Seat seat;
  check_mpi(MPI_Comm_rank(MPI_COMM_WORLD, &seat.rank), "MPI_Comm_rank");
  check_mpi(MPI_Comm_size(MPI_COMM_WORLD, &seat.size), "MPI_Comm_size");
  MPI_Comm machine = MPI_COMM_NULL;
  check_mpi(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, seat.rank, MPI_INFO_NULL, &machine),
            "MPI_Comm_split_type");
  check_mpi(MPI_Comm_rank(machine, &seat.local_rank), "MPI_Comm_rank");
  check_mpi(MPI_Comm_size(machine, &seat.local_size), "MPI_Comm_size");
  check_mpi(MPI_Comm_free(&machine), "MPI_Comm_free");
  return seat;
}

Channels MpiCommunicator::open_channels() {
  Channels channels;
  check_mpi(MPI_Comm_dup(MPI_COMM_WORLD, &channels.collectives), "MPI_Comm_dup");
  check_mpi(MPI_Comm_dup(MPI_COMM_WORLD, &channels.questions), "MPI_Comm_dup");
  return channels;
}

void MpiCommunicator::abort(int exit_code) {
  std::fflush(nullptr);
  MPI_Abort(MPI_COMM_WORLD, exit_code);
  std::_Exit(exit_code);
}

void MpiCommunicator::run(const Call& call) {
  require<SystemError>(!failed_, "{}: an earlier collective of this job failed", call.what);
  failed_ = true;  // unless nothing is thrown
  arrive(call);
  if (call.bytes > 0) move_data(call);
  failed_ = false;
}

// All ranks meet before data move, so that waiting for a rank at work and waiting for data are told apart. They bring
// the greatest and the least of what describes their calls, which are one where all make the same call.
void MpiCommunicator::arrive(const Call& call) {
  const auto name = static_cast<int64_t>(std::hash<std::string>()(describe(call)) >> 2);
  own_names_ = {name, -name};
  MPI_Request request = MPI_REQUEST_NULL;
  check_mpi(MPI_Iallreduce(own_names_.data(), largest_names_.data(), 2, MPI_INT64_T, MPI_MAX, channels_.collectives,
                           &request),
            call.what);
  wait(request, call, kForArrival);
  require<ShapeError>(largest_names_ == own_names_,
                      "the ranks are out of step: rank {} is at {}, others make another call", rank(), describe(call));
}

void MpiCommunicator::move_data(const Call& call) {
  for (size_t offset = 0; offset < call.bytes; offset += options().piece_bytes)
    move_piece(call, offset, std::min(options().piece_bytes, call.bytes - offset));
}

void MpiCommunicator::move_piece(const Call& call, size_t offset, size_t bytes) {
  const int count = static_cast<int>(bytes);
  const MPI_Comm ranks = channels_.collectives;
  MPI_Request request = MPI_REQUEST_NULL;
  if (call.operation == Operation::broadcast) {
    check_mpi(MPI_Ibcast(call.received + offset, count, MPI_BYTE, call.root, ranks, &request), call.what);
    wait(request, call, kForData);
    return;
  }
  const BlockType piece(bytes, call.bytes);
  check_mpi(
      call.operation == Operation::all_gather
          ? MPI_Iallgather(call.own + offset, count, MPI_BYTE, call.received + offset, 1, piece.get(), ranks, &request)
          : MPI_Ialltoall(call.own + offset, 1, piece.get(), call.received + offset, 1, piece.get(), ranks, &request),
      call.what);
  wait(request, call, kForData);
}

void MpiCommunicator::wait(MPI_Request request, const Call& call, const Patience& patience) {
  const Clock::time_point start = Clock::now();
  microseconds sleep = patience.first_sleep;
  for (;;) {
    int done = 0;
    check_mpi(MPI_Test(&request, &done, MPI_STATUS_IGNORE), call.what);
    if (done) return;
    const auto waited = Clock::now() - start;
    if (waited < patience.spin) {
      std::this_thread::yield();
      continue;
    }
    answer_questions();
    if (waited > time_limit()) return ask_for_the_missing(request, call);
    std::this_thread::sleep_for(sleep);
    sleep = std::min(2 * sleep, patience.longest_sleep);
  }
}

// A rank answers where it waits in a collective. One that computes, hangs or is stopped does not: it is missing.
void MpiCommunicator::ask_for_the_missing(MPI_Request request, const Call& call) {
  std::vector<char> here(static_cast<size_t>(size()), 0);
  here[rank()] = 1;
  for (int other = 0; other < size(); ++other)
    if (other != rank()) post(other, kQuestion);
  const Clock::time_point end =
      Clock::now() + std::clamp<milliseconds>(time_limit() / 10, milliseconds(500), milliseconds(10000));
  while (Clock::now() < end) {
    int done = 0;
    check_mpi(MPI_Test(&request, &done, MPI_STATUS_IGNORE), call.what);
    if (done) return;  // the last one came after all
    answer_questions();
    int answered = 0;
    MPI_Status status{};
    check_mpi(MPI_Iprobe(MPI_ANY_SOURCE, kAnswer, channels_.questions, &answered, &status), "MPI_Iprobe");
    if (answered) {
      check_mpi(MPI_Recv(nullptr, 0, MPI_BYTE, status.MPI_SOURCE, kAnswer, channels_.questions, MPI_STATUS_IGNORE),
                "MPI_Recv");
      here[status.MPI_SOURCE] = 1;
    } else {
      std::this_thread::sleep_for(milliseconds(1));
    }
  }
  std::vector<int> missing;
  for (int other = 0; other < size(); ++other)
    if (!here[other]) missing.push_back(other);
  throw_lost(call, missing);
}

void MpiCommunicator::answer_questions() {
  for (;;) {
    int asked = 0;
    MPI_Status status{};
    check_mpi(MPI_Iprobe(MPI_ANY_SOURCE, kQuestion, channels_.questions, &asked, &status), "MPI_Iprobe");
    if (!asked) return;
    check_mpi(MPI_Recv(nullptr, 0, MPI_BYTE, status.MPI_SOURCE, kQuestion, channels_.questions, MPI_STATUS_IGNORE),
              "MPI_Recv");
    post(status.MPI_SOURCE, kAnswer);
  }
}

/// Sends an empty message and forgets it: nobody waits for a rank that may be stopped.
void MpiCommunicator::post(int rank, int tag) {
  MPI_Request request = MPI_REQUEST_NULL;
  check_mpi(MPI_Isend(nullptr, 0, MPI_BYTE, rank, tag, channels_.questions, &request), "MPI_Isend");
  check_mpi(MPI_Request_free(&request), "MPI_Request_free");
}

}  // namespace

struct MpiSession::State {
  Channels channels;
  std::unique_ptr<MpiCommunicator> communicator;
  int exceptions = std::uncaught_exceptions();
};

bool MpiSession::available() { return true; }

MpiSession::MpiSession(const LaunchedRanks& launched, const CommunicatorOptions& options)
    : state_(std::make_unique<State>()) {
  int provided = 0;
  check_mpi(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided), "MPI_Init_thread");
  check_mpi(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  const auto seat = MpiCommunicator::seat();
  if (launched.size > 1 && seat.size == 1) {
    MPI_Finalize();
    throw_error<InputError>(
        "{} started {} ranks, but this build's MPI sees one, and each would do the whole job: use the mpirun of the "
        "MPI "
        "that loci was built with, or `srun --mpi=pmix`",
        launched.launcher, launched.size);
  }
  state_->channels = MpiCommunicator::open_channels();
  state_->communicator = std::make_unique<MpiCommunicator>(seat, state_->channels, options);
}

MpiSession::~MpiSession() {
  if (state_->communicator->failed() || std::uncaught_exceptions() > state_->exceptions) state_->communicator->abort(1);
  MPI_Comm_free(&state_->channels.collectives);
  MPI_Comm_free(&state_->channels.questions);
  MPI_Finalize();
}

Communicator& MpiSession::communicator() { return *state_->communicator; }

}  // namespace loci
