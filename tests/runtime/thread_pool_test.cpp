#include "runtime/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <mutex>
#include <numeric>
#include <set>
#include <stdexcept>
#include <thread>
#include <vector>

namespace loci {
namespace {

TEST(ThreadPool, EveryIndexIsMetOnce) {
  for (const int threads : {1, 2, 3, 7}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.size(), threads);
    for (const int64_t count : {0, 1, 2, 6, 7, 8, 1000}) {
      std::vector<std::atomic<int>> met(static_cast<size_t>(count));
      pool.parallel_for(count, 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) ++met[i];
      });
      for (const auto& one : met) EXPECT_EQ(one.load(), 1);
    }
  }
}

TEST(ThreadPool, ChunksDependOnSizesAlone) {
  const auto chunks = [](ThreadPool& pool) {
    std::mutex mutex;
    std::set<std::pair<int64_t, int64_t>> seen;
    pool.parallel_for(10, 1, [&](int64_t begin, int64_t end) {
      std::lock_guard lock(mutex);
      seen.insert({begin, end});
    });
    return seen;
  };
  ThreadPool pool(3);
  const std::set<std::pair<int64_t, int64_t>> expected{{0, 3}, {3, 6}, {6, 10}};
  for (int repeat = 0; repeat < 100; ++repeat) EXPECT_EQ(chunks(pool), expected);
}

TEST(ThreadPool, TheGrainBoundsTheNumberOfChunks) {
  ThreadPool pool(4);
  for (const int64_t count : {1, 5, 10, 11, 40}) {
    std::mutex mutex;
    int calls = 0;
    pool.parallel_for(count, 10, [&](int64_t begin, int64_t end) {
      std::lock_guard lock(mutex);
      ++calls;
      EXPECT_GE(end - begin, std::min<int64_t>(count, 5));
    });
    EXPECT_EQ(calls, std::min<int64_t>(4, (count + 9) / 10));
  }
}

TEST(ThreadPool, EveryTaskIsTakenOnce) {
  for (const int threads : {1, 2, 3, 7}) {
    ThreadPool pool(threads);
    for (const int64_t count : {0, 1, 2, 8, 1000}) {
      std::vector<std::atomic<int>> taken(static_cast<size_t>(count));
      std::atomic<int> workers = 0;
      pool.parallel_tasks(count, [&](TaskQueue& tasks) {
        ++workers;
        while (const auto task = tasks.take()) ++taken[*task];
        EXPECT_FALSE(tasks.take());
      });
      for (const auto& one : taken) EXPECT_EQ(one.load(), 1);
      EXPECT_EQ(workers, std::min<int64_t>(count, threads));
    }
  }
}

TEST(ThreadPool, OneLongTaskKeepsNoOtherWaiting) {
  ThreadPool pool(2);
  std::atomic<int> others = 0;
  // The thread with the first task waits for all the others, which one thread alone must then have taken.
  pool.parallel_tasks(9, [&](TaskQueue& tasks) {
    while (const auto task = tasks.take()) {
      if (*task > 0) ++others;
      while (*task == 0 && others < 8) std::this_thread::yield();
    }
  });
  EXPECT_EQ(others, 8);
}

TEST(ThreadPool, AnErrorOfATaskIsThrown) {
  ThreadPool pool(3);
  EXPECT_THROW(pool.parallel_tasks(20,
                                   [&](TaskQueue& tasks) {
                                     while (const auto task = tasks.take())
                                       if (*task == 11) throw std::runtime_error("task 11");
                                   }),
               std::runtime_error);
}

TEST(ThreadPool, ManyLoopsInARow) {
  ThreadPool pool(3);
  int64_t sum = 0;
  for (int64_t repeat = 0; repeat < 20000; ++repeat) {
    std::atomic<int64_t> part{0};
    pool.parallel_for(3, 1, [&](int64_t begin, int64_t end) { part += end - begin; });
    sum += part;
  }
  EXPECT_EQ(sum, 60000);
}

TEST(ThreadPool, WorkersThatFellAsleepWakeUp) {
  ThreadPool pool(3);
  for (int repeat = 0; repeat < 3; ++repeat) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    std::atomic<int> calls{0};
    pool.parallel_for(3, 1, [&](int64_t, int64_t) { ++calls; });
    EXPECT_EQ(calls.load(), 3);
  }
}

TEST(ThreadPool, AnExceptionReachesTheCallerAndThePoolGoesOn) {
  ThreadPool pool(3);
  for (const int64_t bad : {0, 1, 2}) {
    std::atomic<int> finished{0};
    try {
      pool.parallel_for(3, 1, [&](int64_t begin, int64_t) {
        if (begin == bad) throw std::runtime_error("chunk " + std::to_string(begin));
        ++finished;
      });
      FAIL() << "nothing was thrown";
    } catch (const std::runtime_error& error) {
      EXPECT_EQ(error.what(), "chunk " + std::to_string(bad));
    }
    EXPECT_EQ(finished.load(), 2);
  }
}

TEST(ThreadPool, ALoopInsideALoopRunsOnItsCaller) {
  ThreadPool pool(2);
  std::atomic<int64_t> sum{0};
  pool.parallel_for(2, 1, [&](int64_t, int64_t) {
    const auto caller = std::this_thread::get_id();
    pool.parallel_for(5, 1, [&](int64_t begin, int64_t end) {
      EXPECT_EQ(std::this_thread::get_id(), caller);
      sum += end - begin;
    });
  });
  EXPECT_EQ(sum.load(), 10);
}

TEST(ThreadPool, IsMadeAndDestroyedQuickly) {
  for (int repeat = 0; repeat < 200; ++repeat) {
    ThreadPool pool(4);
    if (repeat % 2) pool.parallel_for(4, 1, [](int64_t, int64_t) {});
  }
}

}  // namespace
}  // namespace loci
