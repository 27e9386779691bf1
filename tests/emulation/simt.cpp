#include "tests/emulation/simt.h"

#include <boost/context/fiber.hpp>
#include <boost/context/protected_fixedsize_stack.hpp>
#include <memory>
#include <vector>

#include "tests/emulation/device_memory.h"
#include "runtime/error.h"

// Compiled without ThreadSanitizer's instrumentation: the scheduler's own state is shared by all fibers on purpose.
// What the kernels may rely on is told through the calls below.
#if defined(LOCI_TSAN)
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void* fiber);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void* address);
void __tsan_release(void* address);
}
#else
namespace {
void* __tsan_get_current_fiber() { return nullptr; }
void* __tsan_create_fiber(unsigned) { return nullptr; }
void __tsan_destroy_fiber(void*) {}
void __tsan_switch_to_fiber(void*, unsigned) {}
void __tsan_acquire(void*) {}
void __tsan_release(void*) {}
}  // namespace
#endif

namespace loci::emulation {
namespace {

namespace context = boost::context;

constexpr unsigned kNoOrder = 1;  // a switch that orders nothing for ThreadSanitizer
constexpr size_t kStackBytes = size_t{256} << 10;
constexpr int kWarp = 32;

enum class State { idle, ready, at_block_barrier, at_lane_barrier };

/// One thread of the running block: a fiber that goes on to the next block when its kernel returns.
struct Thread {
  Place place;
  State state = State::idle;
  unsigned mask = 0;  // of the lane barrier it waits at
  context::fiber fiber;
  context::fiber scheduler;  // where it came from, while it runs
  void* sanitizer_fiber = nullptr;
};

struct Warp {
  uint64_t values[kWarp] = {};
  char order[kWarp] = {};  // addresses for ThreadSanitizer: one per lane that a barrier releases
};

class Machine {
 public:
  void run(const Job& job, const std::function<void()>& body);

  Thread& current() { return *current_; }
  int lane() const { return static_cast<int>(current_->place.thread.x) % kWarp; }
  Warp& warp() { return warps_[current_->place.thread.x / kWarp]; }
  void wait(State state, unsigned mask);
  void* take_shared(size_t call, size_t bytes);

  char block_order = 0;  ///< an address for ThreadSanitizer

 private:
  /// Blocks take turns with two sets of fibers, so that ThreadSanitizer sees a thread and the same thread of the next
  /// block as two.
  std::vector<std::unique_ptr<Thread>>& set_of(unsigned block) { return threads_[block % 2]; }
  void run_block(const uint3& block);
  void start(Thread& thread);
  void resume(Thread& thread);
  bool release_waiting(std::vector<std::unique_ptr<Thread>>& threads);
  bool lanes_arrived(const std::vector<std::unique_ptr<Thread>>& threads, const Thread& waiting) const;
  [[noreturn]] void fail_stuck(const std::vector<std::unique_ptr<Thread>>& threads);
  void discard_fibers();

  const Job* job_ = nullptr;
  const std::function<void()>* body_ = nullptr;
  std::vector<std::unique_ptr<Thread>> threads_[2];
  std::vector<Warp> warps_;
  std::vector<std::unique_ptr<unsigned char[]>> shared_;
  std::vector<size_t> shared_sizes_;
  std::vector<std::unique_ptr<unsigned char[]>> retired_;  // shared memory of earlier blocks, for ThreadSanitizer
  size_t shared_used_ = 0;
  Thread* current_ = nullptr;
  void* scheduler_fiber_ = nullptr;
  std::exception_ptr failure_;
  char launch_begins_ = 0, launch_ends_ = 0;  // addresses for ThreadSanitizer
};

Machine& machine() {
  static thread_local Machine only;
  return only;
}

void Machine::start(Thread& thread) {
  thread.sanitizer_fiber = __tsan_create_fiber(0);
  thread.fiber = context::fiber(std::allocator_arg, context::protected_fixedsize_stack(kStackBytes),
                                [this, &thread](context::fiber&& from) {
                                  thread.scheduler = std::move(from);
                                  while (true) {
                                    __tsan_acquire(&launch_begins_);
                                    try {
                                      (*body_)();
                                    } catch (const context::detail::forced_unwind&) {
                                      throw;
                                    } catch (...) {
                                      failure_ = std::current_exception();
                                    }
                                    __tsan_release(&launch_ends_);
                                    wait(State::idle, 0);
                                  }
                                  return std::move(thread.scheduler);
                                });
}

void Machine::resume(Thread& thread) {
  current_ = &thread;
  __tsan_switch_to_fiber(thread.sanitizer_fiber, kNoOrder);
  thread.fiber = std::move(thread.fiber).resume();
  current_ = nullptr;
}

void Machine::wait(State state, unsigned mask) {
  Thread& thread = *current_;
  thread.state = state;
  thread.mask = mask;
  __tsan_switch_to_fiber(scheduler_fiber_, kNoOrder);
  thread.scheduler = std::move(thread.scheduler).resume();
}

void Machine::run(const Job& job, const std::function<void()>& body) {
  if (job.grid.x == 0 || job.grid.y == 0 || job.grid.z == 0) return;
  require<Error>(job.threads > 0 && job.threads <= 1024 && job.threads % kWarp == 0,
                 "{}: a block of {} threads; it must be a multiple of 32 and at most 1024", job.op, job.threads);
  require<Error>(current_ == nullptr, "{}: a kernel launches a kernel", job.op);
  require<Error>(job.grid.y <= 65535 && job.grid.z <= 65535, "{}: a grid of {} x {} x {} blocks", job.op, job.grid.x,
                 job.grid.y, job.grid.z);
  const DeviceMemoryAccess access;
  job_ = &job;
  body_ = &body;
  failure_ = nullptr;
  scheduler_fiber_ = __tsan_get_current_fiber();
  warps_.assign(static_cast<size_t>(job.threads / kWarp), {});
  for (auto& set : threads_)
    while (set.size() < static_cast<size_t>(job.threads)) {
      set.push_back(std::make_unique<Thread>());
      start(*set.back());
    }
  for (unsigned z = 0; z < job.grid.z; ++z)
    for (unsigned y = 0; y < job.grid.y; ++y)
      for (unsigned x = 0; x < job.grid.x; ++x) run_block({x, y, z});
  __tsan_acquire(&launch_ends_);
  retired_.clear();
}

void Machine::run_block(const uint3& block) {
#if defined(LOCI_TSAN)
  // Freeing it here would be a write that nothing orders with the earlier block's last accesses.
  for (auto& memory : shared_) retired_.push_back(std::move(memory));
#endif
  shared_.clear();
  shared_sizes_.clear();
  shared_used_ = 0;
  auto& threads = set_of(block.x + block.y + block.z);
  const auto count = static_cast<size_t>(job_->threads);
  for (size_t i = 0; i < count; ++i) {
    threads[i]->place = {{static_cast<unsigned>(i), 0, 0}, block, dim3(static_cast<unsigned>(count)), job_->grid};
    threads[i]->state = State::ready;
  }
  __tsan_release(&launch_begins_);
  bool left = true;
  while (left) {
    bool moved = false;
    left = false;
    for (size_t i = 0; i < count; ++i) {
      if (threads[i]->state == State::ready) {
        resume(*threads[i]);
        moved = true;
      }
      left = left || threads[i]->state != State::idle;
    }
    if (failure_) {
      discard_fibers();
      std::rethrow_exception(failure_);
    }
    if (left && !release_waiting(threads) && !moved) fail_stuck(threads);
  }
}

bool Machine::lanes_arrived(const std::vector<std::unique_ptr<Thread>>& threads, const Thread& waiting) const {
  const unsigned first = waiting.place.thread.x / kWarp * kWarp;
  for (unsigned i = 0; i < kWarp; ++i) {
    const Thread& other = *threads[first + i];
    if ((waiting.mask >> i & 1) && (other.state != State::at_lane_barrier || other.mask != waiting.mask)) return false;
  }
  return true;
}

/// Lets threads go on whose barrier is complete. A thread that has returned does not count as arrived: on a GPU some
/// barriers would take it so, and others hang.
bool Machine::release_waiting(std::vector<std::unique_ptr<Thread>>& threads) {
  const auto count = static_cast<size_t>(job_->threads);
  bool released = false, all = true;
  for (size_t i = 0; i < count; ++i) all = all && threads[i]->state == State::at_block_barrier;
  std::vector<size_t> ready;
  for (size_t i = 0; i < count; ++i)
    if (all || (threads[i]->state == State::at_lane_barrier && lanes_arrived(threads, *threads[i]))) ready.push_back(i);
  for (const size_t i : ready) {
    threads[i]->state = State::ready;
    released = true;
  }
  return released;
}

void Machine::fail_stuck(const std::vector<std::unique_ptr<Thread>>& threads) {
  int at_block = 0, at_lanes = 0, returned = 0;
  for (int i = 0; i < job_->threads; ++i) {
    const State state = threads[static_cast<size_t>(i)]->state;
    at_block += state == State::at_block_barrier;
    at_lanes += state == State::at_lane_barrier;
    returned += state == State::idle;
  }
  discard_fibers();
  throw_error<Error>("{}: the block hangs: {} threads wait at __syncthreads, {} at a warp's barrier, {} have returned",
                     job_->op, at_block, at_lanes, returned);
}

/// After a failure some fibers are in the middle of a kernel.
void Machine::discard_fibers() {
  for (auto& set : threads_) {
    for (auto& thread : set) __tsan_destroy_fiber(thread->sanitizer_fiber);
    set.clear();
  }
}

void* Machine::take_shared(size_t call, size_t bytes) {
  if (call == shared_.size()) {
    shared_used_ += (bytes + 15) / 16 * 16;
    require<Error>(shared_used_ <= job_->shared_bytes, "{}: takes {} bytes of shared memory, launched with {}",
                   job_->op, shared_used_, job_->shared_bytes);
    shared_.push_back(std::make_unique<unsigned char[]>(bytes));
    shared_sizes_.push_back(bytes);
    std::memset(shared_.back().get(), 0xff, bytes);
    __tsan_release(&launch_begins_);
  }
  require<Error>(call < shared_.size() && shared_sizes_[call] == bytes,
                 "{}: threads of a block take different shared memory", job_->op);
  __tsan_acquire(&launch_begins_);
  return shared_[call].get();
}

}  // namespace

void run(const Job& job, const std::function<void()>& body) { machine().run(job, body); }
const Place& place() { return machine().current().place; }
int lane() { return machine().lane(); }
void* take_shared(size_t call, size_t bytes) { return machine().take_shared(call, bytes); }

// All threads arrive before any leaves, so one address orders them.
void sync_block() {
  Machine& m = machine();
  __tsan_release(&m.block_order);
  m.wait(State::at_block_barrier, 0);
  __tsan_acquire(&m.block_order);
}

void sync_lanes(unsigned mask) {
  Machine& m = machine();
  require<Error>(mask >> m.lane() & 1, "a lane waits at a barrier whose mask does not name it");
  Warp& warp = m.warp();
  for (int i = 0; i < kWarp; ++i)
    if (mask >> i & 1) __tsan_release(&warp.order[i]);
  m.wait(State::at_lane_barrier, mask);
  __tsan_acquire(&warp.order[m.lane()]);
}

// A shuffle moves values but does not order memory, so ThreadSanitizer is told of none.
uint64_t exchange(unsigned mask, uint64_t bits, int source) {
  Machine& m = machine();
  require<Error>(mask >> m.lane() & 1, "a lane takes part in a shuffle whose mask does not name it");
  Warp& warp = m.warp();
  warp.values[m.lane()] = bits;
  m.wait(State::at_lane_barrier, mask);
  const uint64_t got = mask >> source & 1 ? warp.values[source] : 0x7ff8dead7fc0deadull;
  m.wait(State::at_lane_barrier, mask);
  return got;
}

unsigned ballot(unsigned mask, bool value) {
  Machine& m = machine();
  require<Error>(mask >> m.lane() & 1, "a lane takes part in a ballot whose mask does not name it");
  Warp& warp = m.warp();
  warp.values[m.lane()] = value;
  m.wait(State::at_lane_barrier, mask);
  unsigned bits = 0;
  for (int i = 0; i < kWarp; ++i)
    if ((mask >> i & 1) && warp.values[i]) bits |= 1u << i;
  m.wait(State::at_lane_barrier, mask);
  return bits;
}

}  // namespace loci::emulation
