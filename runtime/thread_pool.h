#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

namespace loci {

/// A fixed set of threads that share loops. Work is cut into equal contiguous chunks, one a thread at most, so which
/// thread computes what depends on the sizes alone. One loop at a time; a loop started inside a loop runs on its
/// caller.
class ThreadPool {
 public:
  /// `threads` includes the calling thread; 0 takes the number of cores this process may run on.
  explicit ThreadPool(int threads = 0);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  /// Calls body(begin, end) over [0, count) in equal chunks, at most one for every `grain` elements. Returns when all
  /// are done. The first exception thrown by a chunk is thrown here.
  template <typename Body>
  void parallel_for(int64_t count, int64_t grain, Body&& body) {
    using Plain = std::remove_reference_t<Body>;
    run({count, grain, const_cast<void*>(static_cast<const void*>(&body)),
         [](void* target, int64_t begin, int64_t end) { (*static_cast<Plain*>(target))(begin, end); }});
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
