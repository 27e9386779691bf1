#include "runtime/thread_pool.h"

#include <algorithm>

#include "runtime/processors.h"

namespace loci {
namespace {

// Long enough to bridge the gap between two ops of a layer, short enough not to hold a core that others need.
constexpr int kSpins = 4000;

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

ThreadPool::ThreadPool(int threads) {
  const int total = threads > 0 ? threads : usable_processors();
  for (int i = 1; i < total; ++i) workers_.emplace_back([this, i] { work(i); });
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
    ++generation_;
  }
  wake_.notify_all();
  for (auto& worker : workers_) worker.join();
}

void ThreadPool::run(const Loop& loop) {
  if (loop.count <= 0) return;
  const int64_t wanted = (loop.count + loop.grain - 1) / std::max<int64_t>(1, loop.grain);
  const int chunks = static_cast<int>(std::min<int64_t>(size(), wanted));
  if (chunks <= 1 || busy_.exchange(true)) {
    loop.call(loop.target, 0, loop.count);
    return;
  }
  loop_ = loop;
  chunks_ = chunks;
  failure_ = nullptr;
  remaining_ = static_cast<int>(workers_.size());
  {
    std::lock_guard lock(mutex_);
    ++generation_;
  }
  wake_.notify_all();
  run_chunk(loop, 0, chunks);
  while (remaining_.load() > 0) pause();
  const std::exception_ptr failure = failure_;
  busy_ = false;
  if (failure) std::rethrow_exception(failure);
}

void ThreadPool::run_chunk(const Loop& loop, int chunk, int chunks) {
  const int64_t begin = loop.count * chunk / chunks;
  const int64_t end = loop.count * (chunk + 1) / chunks;
  try {
    loop.call(loop.target, begin, end);
  } catch (...) {
    std::lock_guard lock(mutex_);
    if (!failure_) failure_ = std::current_exception();
  }
}

bool ThreadPool::wait_for_generation(uint64_t seen) {
  for (int i = 0; i < kSpins; ++i) {
    if (generation_.load() != seen) return !stop_;
    pause();
  }
  std::unique_lock lock(mutex_);
  wake_.wait(lock, [&] { return generation_.load() != seen; });
  return !stop_;
}

void ThreadPool::work(int worker) {
  uint64_t seen = 0;
  while (wait_for_generation(seen)) {
    seen = generation_.load();
    if (worker < chunks_) run_chunk(loop_, worker, chunks_);
    --remaining_;
  }
}

}  // namespace loci
