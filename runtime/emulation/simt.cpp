#include "runtime/emulation/simt.h"

#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <bit>
#include <boost/context/fiber.hpp>
#include <boost/context/preallocated.hpp>
#include <exception>
#include <memory>
#include <utility>
#include <vector>

#include "runtime/emulation/device_memory.h"
#include "runtime/error.h"

// Compiled without ThreadSanitizer's instrumentation: the scheduler's own state is shared by all threads of a block on
// purpose. To ThreadSanitizer every thread is one of its fibers, and what orders them is told through these calls.
#if defined(LOCI_TSAN)
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void* fiber);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void* address);
void __tsan_release(void* address);
}
namespace {
constexpr bool kTsan = true;
}
#else
namespace {
constexpr bool kTsan = false;
void* __tsan_get_current_fiber() { return nullptr; }
void* __tsan_create_fiber(unsigned) { return nullptr; }
void __tsan_destroy_fiber(void*) {}
void __tsan_switch_to_fiber(void*, unsigned) {}
void __tsan_acquire(void*) {}
void __tsan_release(void*) {}
}  // namespace
#endif

// AddressSanitizer must know on which stack the program is.
#if defined(LOCI_ASAN)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#else
namespace {
void __sanitizer_start_switch_fiber(void**, const void*, size_t) {}
void __sanitizer_finish_switch_fiber(void*, const void**, size_t*) {}
void __asan_unpoison_memory_region(const volatile void*, size_t) {}
}  // namespace
#endif

namespace loci::emulation {

constinit thread_local const Place* running_place = nullptr;

namespace {

namespace context = boost::context;

constexpr unsigned kNoOrder = 1;  // a switch that orders nothing for ThreadSanitizer
constexpr int kWarp = 32;
constexpr int kMostThreads = 1024;
constexpr size_t kMostSharedBytes = 227 * 1024;  // of one block, from compute capability 9.0 on
constexpr size_t kStackBytes = size_t{256} << 10;

/// Thrown in the threads of a block that failed, so that they leave their kernels.
struct Abandoned {};

/// Memory of one stack, with a closed page below it. Tops are shifted against each other: stacks that lie the same way
/// in their pages would share a few sets of the caches.
class Stack {
 public:
  explicit Stack(size_t number)
      : page_(static_cast<size_t>(sysconf(_SC_PAGESIZE))), size_(kStackBytes - number % 32 * 128) {
    void* mapped =
        mmap(nullptr, page_ + kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    require<SystemError>(mapped != MAP_FAILED && mprotect(mapped, page_, PROT_NONE) == 0,
                         "no memory for the stack of an emulated thread");
    mapped_ = static_cast<unsigned char*>(mapped);
  }
  ~Stack() {
    // Frames that never returned have left marks for AddressSanitizer; what comes to lie here next knows nothing of
    // them.
    __asan_unpoison_memory_region(mapped_, page_ + kStackBytes);
    munmap(mapped_, page_ + kStackBytes);
  }
  Stack(const Stack&) = delete;
  Stack& operator=(const Stack&) = delete;

  const void* bottom() const { return mapped_ + page_; }
  size_t size() const { return size_; }
  context::preallocated place() const {
    context::stack_context described;
    described.sp = mapped_ + page_ + size_;
    described.size = size_;
    return {described.sp, described.size, described};
  }

 private:
  size_t page_, size_;
  unsigned char* mapped_;
};

/// What a fiber calls to give its stack back; the stack belongs to its Worker.
struct KeepStack {
  context::stack_context allocate() { std::terminate(); }
  void deallocate(context::stack_context&) noexcept {}
};

/// A flow of control: that of the host, or a fiber that runs one thread of the block after another.
struct Worker {
  std::unique_ptr<Stack> stack;  // null for the host's
  context::fiber fiber;          // where it goes on, while it does not run
  const void* bottom = nullptr;
  size_t size = 0;
  void* fake_stack = nullptr;  // AddressSanitizer's
};

enum class LaneOperation { barrier, exchange, gather, ballot };

/// One thread of the running block.
struct Thread {
  Place place;
  Worker* worker = nullptr;  // the flow that it is on, from its first step to its last
  void* identity = nullptr;  // ThreadSanitizer's fiber,
  Worker* home = nullptr;    // and the flow that is kept for it
};

/// Lanes of one warp, and what each brings to the operation at which it waits.
struct Warp {
  unsigned ready = 0;    // lanes that can go on
  unsigned waiting = 0;  // lanes that wait for others
  std::array<LaneOperation, kWarp> operations = {};
  std::array<unsigned, kWarp> masks = {};
  std::array<uint64_t, kWarp> values = {};
  std::array<int, kWarp> sources = {};
  std::array<uint64_t, kWarp> results = {};
  std::array<uint64_t*, kWarp> gathered = {};  // where gather leaves all lanes' values
  std::array<char, kWarp> order = {};          // addresses for ThreadSanitizer: of barriers, by their lowest lane
};

/// One array in shared memory.
struct SharedArray {
  std::unique_ptr<unsigned char[]> bytes;
  size_t size = 0;
};

class Machine {
 public:
  ~Machine();
  void run(const Job& job, const std::function<void()>& body);
  void sync_block();
  uint64_t meet_lanes(LaneOperation operation, unsigned mask, uint64_t value, int source, uint64_t* all = nullptr);
  void* take_shared(size_t call, size_t bytes);

 private:
  /// A fiber of ThreadSanitizer, with a stack of its own: to it a local variable where another fiber had one is shared.
  struct Identity {
    void* fiber = nullptr;
    Worker* worker = nullptr;
  };

  void check(const Job& job) const;
  void begin_launch(const Job& job, const std::function<void()>& body);
  void end_launch();
  void begin_block(const uint3& block);
  void run_block(const uint3& block);
  void end_block();
  void abandon();
  [[noreturn]] void fail_stuck();

  void take_turn(size_t thread);
  Thread* next_ready();
  void become(Thread& thread);
  void give_way();
  void resume(Thread* next);
  void switch_to(Worker& worker);
  void arrive_from(context::fiber&& from);
  void work();
  Worker& idle_worker();
  Worker& make_worker();

  void complete(size_t warp, size_t last);
  void order_lanes(size_t warp, unsigned mask);
  template <typename Action>
  void as(void* identity, Action&& action) const;

  const Job* job_ = nullptr;
  const std::function<void()>* body_ = nullptr;
  std::vector<Thread> threads_;
  std::array<Warp, kMostThreads / kWarp> warps_;
  unsigned ready_warps_ = 0;
  size_t warp_ = 0;  // whose lanes run as long as they can
  size_t arrived_ = 0, returned_ = 0;
  uint64_t blocks_ = 0;  // of this launch so far
  uint64_t launches_ = 0;
  bool backwards_ = false;
  Thread* current_ = nullptr;
  std::exception_ptr failure_;
  bool abandoning_ = false, ending_ = false;

  Worker host_;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::vector<Worker*> idle_;
  Worker* running_ = &host_;
  Worker* previous_ = nullptr;

  std::vector<SharedArray> shared_;
  size_t shared_taken_ = 0, shared_used_ = 0;

  // ThreadSanitizer's fibers. Blocks take turns with two sets, so that a thread and the same thread of the next block
  // are two to it. The host's issues launches and hands out shared memory; the reaper's frees it again.
  std::array<Identity, kMostThreads> identities_[2] = {};
  void* host_identity_ = nullptr;
  void* reaper_ = nullptr;
  char launch_begins_ = 0, launch_ends_ = 0, block_barrier_ = 0, shared_begins_ = 0;
  [[maybe_unused]] char shared_ends_ = 0;  // under the sanitizers alone
};

Machine& machine() {
  static thread_local Machine only;
  return only;
}

Machine::~Machine() {
  ending_ = true;
  for (auto& worker : workers_) switch_to(*worker);
  for (auto& set : identities_)
    for (const Identity& identity : set)
      if (identity.fiber) __tsan_destroy_fiber(identity.fiber);
  if (reaper_) __tsan_destroy_fiber(reaper_);
}

void Machine::check(const Job& job) const {
  require<Error>(job.threads > 0 && job.threads <= kMostThreads && job.threads % kWarp == 0,
                 "{}: a block of {} threads; it must be a multiple of 32 and at most {}", job.op, job.threads,
                 kMostThreads);
  require<Error>(job.grid.x <= 0x7fffffffu && job.grid.y <= 65535 && job.grid.z <= 65535,
                 "{}: a grid of {} x {} x {} blocks", job.op, job.grid.x, job.grid.y, job.grid.z);
  require<Error>(job.shared_bytes <= kMostSharedBytes, "{}: {} bytes of shared memory; a block may have {}", job.op,
                 job.shared_bytes, kMostSharedBytes);
  require<Error>(job_ == nullptr, "{}: a kernel launches a kernel", job.op);
}

void Machine::run(const Job& job, const std::function<void()>& body) {
  if (job.grid.x == 0 || job.grid.y == 0 || job.grid.z == 0) return;
  check(job);
  const DeviceMemoryAccess access;
  begin_launch(job, body);
  try {
    for (unsigned z = 0; z < job.grid.z; ++z)
      for (unsigned y = 0; y < job.grid.y; ++y)
        for (unsigned x = 0; x < job.grid.x; ++x) run_block({x, y, z});
  } catch (...) {
    end_launch();
    throw;
  }
  end_launch();
}

void Machine::begin_launch(const Job& job, const std::function<void()>& body) {
  job_ = &job;
  body_ = &body;
  failure_ = nullptr;
  blocks_ = 0;
  ++launches_;
  threads_.resize(static_cast<size_t>(job.threads));
  host_identity_ = __tsan_get_current_fiber();
  if (kTsan && !reaper_) reaper_ = __tsan_create_fiber(0);
  __tsan_release(&launch_begins_);
}

void Machine::end_launch() {
  for (size_t set = 0; kTsan && set < std::min<uint64_t>(blocks_, 2); ++set)
    for (size_t i = 0; i < threads_.size(); ++i)
      as(identities_[set][i].fiber, [this] { __tsan_release(&launch_ends_); });
  __tsan_acquire(&launch_ends_);
  job_ = nullptr;
}

void Machine::begin_block(const uint3& block) {
  const dim3 size(static_cast<unsigned>(threads_.size()));
  for (size_t i = 0; i < threads_.size(); ++i) {
    Thread& thread = threads_[i];
    thread.place = {{static_cast<unsigned>(i), 0, 0}, block, size, job_->grid};
    if (!kTsan) continue;
    Identity& identity = identities_[blocks_ % 2][i];
    if (!identity.fiber) identity = {__tsan_create_fiber(0), &make_worker()};
    thread.identity = identity.fiber;
    thread.home = identity.worker;
    if (blocks_ < 2) as(thread.identity, [this] { __tsan_acquire(&launch_begins_); });
  }
  for (size_t w = 0; w < threads_.size() / kWarp; ++w) {
    warps_[w].ready = ~0u;
    warps_[w].waiting = 0;
    ready_warps_ |= 1u << w;
  }
  arrived_ = returned_ = 0;
  shared_taken_ = shared_used_ = 0;
}

void Machine::run_block(const uint3& block) {
  begin_block(block);
  backwards_ = (launches_ + ++blocks_) % 2 == 1;
  resume(next_ready());  // comes back when no thread can go on
  const bool stuck = !failure_ && returned_ < threads_.size();
  if (failure_) abandon();
  if (stuck) fail_stuck();
  end_block();
  if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
}

/// Under the sanitizers shared memory does not outlive its block. The reaper has seen all that was done in the block,
/// so that its freeing is no race, and it orders nothing itself.
void Machine::end_block() {
#ifdef LOCI_SANITIZED
  if (shared_.empty()) return;
  for (const Thread& thread : threads_) as(thread.identity, [this] { __tsan_release(&shared_ends_); });
  as(reaper_, [this] {
    __tsan_acquire(&shared_ends_);
    shared_.clear();
  });
#endif
}

void Machine::abandon() {
  abandoning_ = true;
  ready_warps_ = 0;
  for (Warp& warp : warps_) warp.ready = 0;
  for (Thread& thread : threads_)
    if (thread.worker) resume(&thread);
  abandoning_ = false;
}

void Machine::fail_stuck() {
  int at_lanes = 0;
  for (size_t w = 0; w < threads_.size() / kWarp; ++w) at_lanes += std::popcount(warps_[w].waiting);
  const size_t at_block = arrived_, returned = returned_;
  abandon();
  end_block();
  throw_error<Error>("{}: the block hangs: {} threads wait at __syncthreads, {} at a warp's barrier, {} have returned",
                     job_->op, at_block, at_lanes, returned);
}

/// `thread` is about to run.
void Machine::take_turn(size_t thread) {
  Warp& warp = warps_[thread / kWarp];
  warp.ready &= ~(1u << thread % kWarp);
  if (warp.ready == 0) ready_warps_ &= ~(1u << thread / kWarp);
}

/// The next thread that can go on, of the same warp while it has one. Every other block runs backwards, so that a
/// kernel whose result depends on the order of its threads does not pass by luck.
Thread* Machine::next_ready() {
  if (failure_ || ready_warps_ == 0) return nullptr;
  const auto pick = [&](unsigned bits) {
    return static_cast<size_t>(backwards_ ? 31 - std::countl_zero(bits) : std::countr_zero(bits));
  };
  if ((ready_warps_ >> warp_ & 1) == 0) warp_ = pick(ready_warps_);
  const size_t thread = warp_ * kWarp + pick(warps_[warp_].ready);
  take_turn(thread);
  return &threads_[thread];
}

void Machine::become(Thread& thread) {
  current_ = &thread;
  running_place = &thread.place;
  __tsan_switch_to_fiber(thread.identity, kNoOrder);
}

/// Lets others run until the running thread is ready again.
void Machine::give_way() {
  resume(next_ready());
  if (abandoning_) throw Abandoned();
}

/// Goes on with `next`, or with the host where there is none. Returns when this flow's turn comes again.
void Machine::resume(Thread* next) {
  if (next) {
    become(*next);
    switch_to(next->worker ? *next->worker : next->home ? *next->home : idle_worker());
  } else {
    current_ = nullptr;
    running_place = nullptr;
    __tsan_switch_to_fiber(host_identity_, kNoOrder);
    switch_to(host_);
  }
}

void Machine::switch_to(Worker& worker) {
  previous_ = std::exchange(running_, &worker);
  __sanitizer_start_switch_fiber(&previous_->fake_stack, worker.bottom, worker.size);
  arrive_from(std::move(worker.fiber).resume());
}

void Machine::arrive_from(context::fiber&& from) {
  const void* bottom = nullptr;
  size_t size = 0;
  __sanitizer_finish_switch_fiber(running_->fake_stack, &bottom, &size);
  if (previous_ == &host_) {
    host_.bottom = bottom;
    host_.size = size;
  }
  previous_->fiber = std::move(from);
}

/// A flow for a thread that starts.
Worker& Machine::idle_worker() {
  if (idle_.empty()) return make_worker();
  Worker& worker = *idle_.back();
  idle_.pop_back();
  return worker;
}

Worker& Machine::make_worker() {
  Worker& made = *workers_.emplace_back(std::make_unique<Worker>());
  made.stack = std::make_unique<Stack>(workers_.size());
  made.bottom = made.stack->bottom();
  made.size = made.stack->size();
  made.fiber = context::fiber(std::allocator_arg, made.stack->place(), KeepStack(), [this](context::fiber&& from) {
    arrive_from(std::move(from));
    work();
    __sanitizer_start_switch_fiber(nullptr, host_.bottom, host_.size);
    previous_ = std::exchange(running_, &host_);
    return std::move(host_.fiber);
  });
  return made;
}

/// Runs the current thread to its end, and then every thread that has not started yet and whose turn comes here.
void Machine::work() {
  while (!ending_) {
    Thread& thread = *current_;
    thread.worker = running_;
    try {
      (*body_)();
    } catch (const Abandoned&) {
    } catch (...) {
      if (!failure_) failure_ = std::current_exception();
    }
    thread.worker = nullptr;
    ++returned_;
    Thread* next = next_ready();
    if (next && !next->worker && !next->home) {
      become(*next);
      continue;
    }
    if (!thread.home) idle_.push_back(running_);
    resume(next);
  }
}

template <typename Action>
void Machine::as(void* identity, Action&& action) const {
  void* const own = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(identity, kNoOrder);
  action();
  __tsan_switch_to_fiber(own, kNoOrder);
}

/// The last thread to arrive lets the others go on; they are ordered in its name, before any of them runs again, so
/// that nothing which they do behind the barrier is ordered with it.
void Machine::sync_block() {
  if (++arrived_ < threads_.size()) return give_way();
  arrived_ = 0;
  if (kTsan) {
    for (const Thread& thread : threads_) as(thread.identity, [this] { __tsan_release(&block_barrier_); });
    for (const Thread& thread : threads_) as(thread.identity, [this] { __tsan_acquire(&block_barrier_); });
  }
  for (size_t w = 0; w < threads_.size() / kWarp; ++w) warps_[w].ready = ~0u;
  ready_warps_ = ~0u >> (32 - threads_.size() / kWarp);
  take_turn(current_->place.thread.x);
}

uint64_t Machine::meet_lanes(LaneOperation operation, unsigned mask, uint64_t value, int source, uint64_t* all) {
  const size_t w = current_->place.thread.x / kWarp, lane = current_->place.thread.x % kWarp;
  require<Error>(mask >> lane & 1, "{}: lane {} takes part in an operation of the lanes {:#x}", job_->op, lane, mask);
  Warp& warp = warps_[w];
  warp.operations[lane] = operation;
  warp.masks[lane] = mask;
  warp.values[lane] = value;
  warp.sources[lane] = source;
  warp.gathered[lane] = all;
  warp.waiting |= 1u << lane;
  bool met = (warp.waiting & mask) == mask;
  for (unsigned left = mask; met && left; left &= left - 1) {
    const auto other = static_cast<size_t>(std::countr_zero(left));
    met = warp.masks[other] == mask && warp.operations[other] == operation;
  }
  if (met)
    complete(w, lane);
  else
    give_way();
  return warp.results[lane];
}

/// Does the operation of the lanes that have met. Shuffles and votes move values but do not order memory, so
/// ThreadSanitizer is told of none.
void Machine::complete(size_t w, size_t last) {
  constexpr uint64_t kNothing = 0x7ff8dead7fc0deadull;  // NaN in both precisions
  Warp& warp = warps_[w];
  const unsigned mask = warp.masks[last];
  const auto each = [mask](auto&& action) {
    for (unsigned left = mask; left; left &= left - 1) action(static_cast<size_t>(std::countr_zero(left)));
  };
  switch (warp.operations[last]) {
    case LaneOperation::barrier:
      if (kTsan) order_lanes(w, mask);
      break;
    case LaneOperation::exchange:
      each([&](size_t lane) {
        const auto source = static_cast<size_t>(warp.sources[lane]);
        warp.results[lane] = mask >> source & 1 ? warp.values[source] : kNothing;
      });
      break;
    case LaneOperation::ballot: {
      uint64_t votes = 0;
      each([&](size_t lane) { votes |= uint64_t{warp.values[lane] != 0} << lane; });
      each([&](size_t lane) { warp.results[lane] = votes; });
      break;
    }
    case LaneOperation::gather:
      each([&](size_t lane) {
        as(threads_[w * kWarp + lane].identity,
           [&] { std::copy(warp.values.begin(), warp.values.end(), warp.gathered[lane]); });
      });
      break;
  }
  warp.waiting &= ~mask;
  warp.ready |= mask;
  ready_warps_ |= 1u << w;
  take_turn(w * kWarp + last);
}

void Machine::order_lanes(size_t w, unsigned mask) {
  char& address = warps_[w].order[std::countr_zero(mask)];
  for (const bool arriving : {true, false})
    for (unsigned left = mask; left; left &= left - 1)
      as(threads_[w * kWarp + static_cast<size_t>(std::countr_zero(left))].identity,
         [&] { arriving ? __tsan_release(&address) : __tsan_acquire(&address); });
}

/// The first thread that asks makes the array, for ThreadSanitizer in the host's name.
void* Machine::take_shared(size_t call, size_t bytes) {
  if (call == shared_taken_) {
    shared_used_ += (bytes + 15) / 16 * 16;
    require<Error>(shared_used_ <= job_->shared_bytes, "{}: takes {} bytes of shared memory, launched with {}",
                   job_->op, shared_used_, job_->shared_bytes);
    as(host_identity_, [&] {
      if (call == shared_.size()) shared_.emplace_back();
      SharedArray& array = shared_[call];
      if (!array.bytes || array.size != bytes) array.bytes.reset(new unsigned char[bytes]);
      array.size = bytes;
      std::memset(array.bytes.get(), 0xff, bytes);
      __tsan_release(&shared_begins_);
    });
    ++shared_taken_;
  }
  require<Error>(call < shared_taken_ && shared_[call].size == bytes,
                 "{}: threads of a block take different shared memory", job_->op);
  __tsan_acquire(&shared_begins_);
  return shared_[call].bytes.get();
}

}  // namespace

void run(const Job& job, const std::function<void()>& body) { machine().run(job, body); }
void* take_shared(size_t call, size_t bytes) { return machine().take_shared(call, bytes); }
void sync_block() { machine().sync_block(); }
void sync_lanes(unsigned mask) { machine().meet_lanes(LaneOperation::barrier, mask, 0, 0); }
uint64_t exchange(unsigned mask, uint64_t bits, int source) {
  return machine().meet_lanes(LaneOperation::exchange, mask, bits, source);
}
void gather(uint64_t bits, uint64_t (&all)[kWarp]) { machine().meet_lanes(LaneOperation::gather, ~0u, bits, 0, all); }
unsigned ballot(unsigned mask, bool value) {
  return static_cast<unsigned>(machine().meet_lanes(LaneOperation::ballot, mask, value, 0));
}

}  // namespace loci::emulation
