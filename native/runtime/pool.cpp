#include "runtime/pool.h"

#include <pthread.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <thread>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace pocketvlm {
namespace {

// Counts forks: threads do not survive one, so the child starts its pools anew.
std::atomic<int> forks{0};
const int fork_hook = pthread_atfork(nullptr, nullptr, [] { forks.fetch_add(1, std::memory_order_relaxed); });

inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

class Buffer {
  public:
    Buffer() = default;
    Buffer(Buffer&& other) noexcept : data_(other.data_), size_(other.size_) { other.data_ = nullptr; }
    ~Buffer() { std::free(data_); }

    float* request(std::size_t bytes, bool poison) {
        allow(size_);
        if (bytes > size_) {
            std::free(data_);
            data_ = nullptr;
            size_ = 0;
            const std::size_t unit = bytes >= huge ? huge : 64;
            const std::size_t rounded = (bytes + unit - 1) / unit * unit;
            data_ = std::aligned_alloc(unit, rounded);
            if (!data_) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
            if (unit == huge) madvise(data_, rounded, MADV_HUGEPAGE);
#endif
            size_ = rounded;
        }
        if (poison && data_) std::memset(data_, 0xff, size_);
        allow(bytes);
        return get();
    }
    float* get() const { return static_cast<float*>(data_); }

  private:
    // For the address sanitizer: memory after the requested bytes is out of bounds.
    void allow([[maybe_unused]] std::size_t bytes) const {
#if defined(__SANITIZE_ADDRESS__)
        ASAN_UNPOISON_MEMORY_REGION(data_, bytes);
        ASAN_POISON_MEMORY_REGION(static_cast<char*>(data_) + bytes, size_ - bytes);
#endif
    }

    static constexpr std::size_t huge = std::size_t{2} << 20;
    void* data_ = nullptr;
    std::size_t size_ = 0;
};

constexpr auto spin_time = std::chrono::microseconds(60);
constexpr int64_t chunk_bytes = 512, max_prefetch = 768 << 10;

}  // namespace

struct Pool::State {
    int forks_seen = forks.load();
    std::mutex operation;
    std::vector<Buffer> scratch;
    Buffer shared;
    std::vector<std::thread> workers;

    // `ticket` holds the number of the job and the next task, so that a worker that wakes up late can never take a task of a
    // job whose fields it has not read.
    std::atomic<void (*)(void*, int64_t, int)> call{nullptr};
    std::atomic<void*> context{nullptr};
    std::atomic<uint32_t> tasks{0};
    std::atomic<uint32_t> job{0};
    std::atomic<uint64_t> ticket{0};
    std::atomic<uint32_t> done{0};
    std::atomic<bool> stop{false};

    // The memory that prefetch() named, in chunks.
    std::atomic<const char*> wanted{nullptr};
    std::atomic<int64_t> chunks{0};

    std::mutex sleep;
    std::condition_variable wake;
    std::atomic<int> sleepers{0};

    // Called in a loop by a waiting thread: prefetches one chunk if there is one.
    void idle() {
        if (chunks.load(std::memory_order_relaxed) <= 0) return relax();
        const int64_t left = chunks.fetch_sub(1, std::memory_order_acquire);
        if (left <= 0) return;
        const char* p = wanted.load(std::memory_order_relaxed) - left * chunk_bytes;
        for (int64_t i = 0; i < chunk_bytes; i += 64) __builtin_prefetch(p + i, 0, 2);
    }

    // Take tasks of job `number` until none is left.
    void work(uint32_t number, int worker) {
        const auto function = call.load(std::memory_order_relaxed);
        void* argument = context.load(std::memory_order_relaxed);
        const uint32_t count = tasks.load(std::memory_order_relaxed);
        std::atomic_thread_fence(std::memory_order_acquire);  // fields of a later job imply that its ticket is seen
        uint64_t now = ticket.load(std::memory_order_acquire);
        while (static_cast<uint32_t>(now >> 32) == number && static_cast<uint32_t>(now) < count) {
            if (!ticket.compare_exchange_weak(now, now + 1, std::memory_order_acq_rel, std::memory_order_acquire)) continue;
            function(argument, static_cast<int64_t>(static_cast<uint32_t>(now)), worker);
            done.fetch_add(1, std::memory_order_release);
            now = ticket.load(std::memory_order_acquire);
        }
    }

    void live(int worker) {
        uint32_t seen = 0;
        while (true) {
            const auto until = std::chrono::steady_clock::now() + spin_time;
            for (int i = 1; job.load(std::memory_order_acquire) == seen && !stop.load(std::memory_order_relaxed); ++i) {
                idle();
                if (i % 64 == 0 && std::chrono::steady_clock::now() > until) {
                    std::unique_lock lock(sleep);
                    sleepers.fetch_add(1);
                    wake.wait(lock, [&] { return job.load() != seen || stop.load(); });
                    sleepers.fetch_sub(1);
                }
            }
            if (stop.load()) return;
            seen = job.load(std::memory_order_acquire);
            work(seen, worker);
        }
    }

    void start(int threads) {
        while (static_cast<int>(workers.size()) < threads - 1) {
            const int worker = static_cast<int>(workers.size()) + 1;
            workers.emplace_back([this, worker] { live(worker); });
        }
    }
};

Pool::Pool(int threads) : threads_(threads), state_(new State) { state_->scratch.resize(static_cast<std::size_t>(threads)); }

Pool::~Pool() {
    if (state_->forks_seen != forks.load()) return;  // the threads belong to the parent process: nothing here to join
    {
        std::lock_guard lock(state_->sleep);
        state_->stop.store(true);
    }
    state_->wake.notify_all();
    for (auto& worker : state_->workers) worker.join();
    delete state_;
}

Pool::State& Pool::current() {
    static std::mutex& renewal = *new std::mutex;
    if (state_->forks_seen != forks.load(std::memory_order_relaxed)) {
        std::lock_guard lock(renewal);
        if (state_->forks_seen != forks.load()) {
            auto* fresh = new State;  // the old one may be locked for ever: it is never freed
            fresh->scratch.resize(static_cast<std::size_t>(threads_));
            state_ = fresh;
        }
    }
    return *state_;
}

std::unique_lock<std::mutex> Pool::acquire() { return std::unique_lock(current().operation); }

std::unique_lock<std::mutex> Pool::try_acquire() { return std::unique_lock(current().operation, std::try_to_lock); }

void Pool::run(int64_t tasks, void (*call)(void*, int64_t, int), void* context) {
    State& s = *state_;
    if (threads_ == 1 || tasks <= 1) {
        for (int64_t t = 0; t < tasks; ++t) call(context, t, 0);
        return;
    }
    s.start(threads_);
    const uint32_t number = s.job.load(std::memory_order_relaxed) + 1;
    s.ticket.store(uint64_t{number} << 32 | 0xffffffffu, std::memory_order_relaxed);  // closed while the fields change
    std::atomic_thread_fence(std::memory_order_release);
    s.call.store(call, std::memory_order_relaxed);
    s.context.store(context, std::memory_order_relaxed);
    s.tasks.store(static_cast<uint32_t>(tasks), std::memory_order_relaxed);
    s.done.store(0, std::memory_order_relaxed);
    s.ticket.store(uint64_t{number} << 32, std::memory_order_release);
    s.job.store(number);
    if (s.sleepers.load() > 0) {
        std::lock_guard lock(s.sleep);
        s.wake.notify_all();
    }
    s.work(number, 0);
    for (int i = 1; s.done.load(std::memory_order_acquire) != static_cast<uint32_t>(tasks); ++i) {
        s.idle();
        if (i % 1024 == 0) std::this_thread::yield();
    }
}

void Pool::prefetch(const void* from, int64_t bytes) {
    const int64_t chunks = std::min(bytes, max_prefetch) / chunk_bytes;
    state_->chunks.store(0, std::memory_order_relaxed);
    state_->wanted.store(static_cast<const char*>(from) + chunks * chunk_bytes, std::memory_order_relaxed);
    state_->chunks.store(chunks, std::memory_order_release);
}

void Pool::reserve(std::size_t bytes_per_worker) {
    for (auto& buffer : state_->scratch) buffer.request(bytes_per_worker, poison_);
}

float* Pool::scratch(int worker) const { return state_->scratch[static_cast<std::size_t>(worker)].get(); }

float* Pool::shared(std::size_t bytes) { return state_->shared.request(bytes, poison_); }

}  // namespace pocketvlm
