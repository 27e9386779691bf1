#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <type_traits>
#include <vector>

namespace loci {

/// The tasks 0 to count - 1 of a loop, each given out once.
class TaskQueue {
 public:
  explicit TaskQueue(int64_t count) : count_(count) {}
  /// The next task; nothing after the last.
  std::optional<int64_t> take() {
    const int64_t task = next_.fetch_add(1, std::memory_order_relaxed);
    return task < count_ ? std::optional(task) : std::nullopt;
  }

 private:
  const int64_t count_;
  std::atomic<int64_t> next_{0};
};

/// A fixed set of threads that share loops. One loop at a time; a loop started inside a loop runs on its caller.
class ThreadPool {
 public:
  /// `threads` includes the calling thread; 0 takes the number of cores this process may run on.
  explicit ThreadPool(int threads = 0);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  /// Calls body(begin, end) over [0, count) in equal contiguous chunks, one a thread at most and at most one for every
  /// `grain` elements: which thread computes what depends on the sizes alone. Returns when all are done. The first
  /// exception thrown by a chunk is thrown here.
  template <typename Body>
  void parallel_for(int64_t count, int64_t grain, Body&& body) {
    using Plain = std::remove_reference_t<Body>;
    run({count, grain, const_cast<void*>(static_cast<const void*>(&body)),
         [](void* target, int64_t begin, int64_t end) { (*static_cast<Plain*>(target))(begin, end); }});
  }
  /// For tasks that are few and large, or of unequal size: threads take them as they become free, so that no thread
  /// waits long for one that is slow, or shares its core. Calls worker(queue) on at most as many threads as there are
  /// tasks; it is to run `while (const auto task = queue.take())`. Returns and throws as parallel_for().
  template <typename Worker>
  void parallel_tasks(int64_t count, Worker&& worker) {
    TaskQueue queue(count);
    parallel_for(std::min<int64_t>(count, size()), 1, [&](int64_t, int64_t) { worker(queue); });
  }

 private:
  struct Loop {
    int64_t count = 0;
    int64_t grain = 1;
    void* target = nullptr;
    void (*call)(void*, int64_t, int64_t) = nullptr;
  };

  void run(const Loop& loop);
  void work(int worker);
  void run_chunk(const Loop& loop, int chunk, int chunks);
  bool wait_for_generation(uint64_t seen);

  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<bool> busy_{false};
  std::atomic<bool> stop_{false};
  std::atomic<uint64_t> generation_{0};
  std::atomic<int> remaining_{0};
  std::exception_ptr failure_;
  Loop loop_;
  int chunks_ = 0;
};

}  // namespace loci
