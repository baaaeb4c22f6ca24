// Helpers of the cases: arrays with guarded ends, reproducible numbers, runs and comparisons.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "runtime/isa.h"

namespace pocketvlm::test {

// An array that ends with a page; the next page must not be touched. All bits are set at first, so floats are NaN. The bytes
// before the array must keep all bits set.
template <class T>
class Array {
  public:
    explicit Array(int64_t count = 0) : count_(count) {
        const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE)), used = bytes() + front;
        mapped_ = (used + page - 1) / page * page;
        void* memory = mmap(nullptr, mapped_ + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) throw std::bad_alloc();
        memory_ = static_cast<unsigned char*>(memory);
        std::memset(memory_, 0xff, mapped_);
        mprotect(memory_ + mapped_, page, PROT_NONE);
    }
    Array(const Array& other) : Array(other.count_) { std::memcpy(data(), other.data(), bytes()); }
    Array& operator=(const Array&) = delete;
    ~Array() { munmap(memory_, mapped_ + static_cast<std::size_t>(sysconf(_SC_PAGESIZE))); }

    T* data() { return reinterpret_cast<T*>(memory_ + mapped_ - bytes()); }
    const T* data() const { return const_cast<Array*>(this)->data(); }
    int64_t size() const { return count_; }
    T& operator[](int64_t i) { return data()[i]; }
    const T& operator[](int64_t i) const { return data()[i]; }

    bool overrun() const {
        for (std::size_t i = 0; i < front; ++i)
            if (memory_[mapped_ - bytes() - 1 - i] != 0xff) return true;
        return false;
    }

  private:
    static constexpr std::size_t front = 64;
    std::size_t bytes() const { return static_cast<std::size_t>(count_) * sizeof(T); }
    int64_t count_;
    std::size_t mapped_;
    unsigned char* memory_;
};

using Floats = Array<float>;
using Ints = Array<int32_t>;

// Random numbers that are the same with every compiler and library.
class Random {
  public:
    explicit Random(uint64_t seed) : state_(seed * 2 + 1) {}
    uint64_t bits() {
        uint64_t z = state_ += 0x9e3779b97f4a7c15u;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        return z ^ (z >> 31);
    }
    int64_t below(int64_t n) { return static_cast<int64_t>(bits() % static_cast<uint64_t>(n)); }
    float unit() { return static_cast<float>(bits() >> 40) * 0x1p-24f; }
    float normal() { return (unit() + unit() + unit() - 1.5f) * 2.0f; }

    void fill(Floats& array, float scale = 1.0f) {
        for (int64_t i = 0; i < array.size(); ++i) array[i] = normal() * scale;
    }
    Floats floats(int64_t count, float scale = 1.0f) {
        Floats made(count);
        fill(made, scale);
        return made;
    }
    // The first `count` of the numbers below `of` in another order.
    Ints permutation(int64_t count, int64_t of) {
        Ints all(of), made(count);
        for (int64_t i = 0; i < of; ++i) all[i] = static_cast<int32_t>(i);
        for (int64_t i = of - 1; i > 0; --i) std::swap(all[i], all[below(i + 1)]);
        for (int64_t i = 0; i < count; ++i) made[i] = all[i];
        return made;
    }

  private:
    uint64_t state_;
};

// Sequences end to end: the offsets of their rows, their context lengths, and the slots of their state.
struct Batch {
    Batch(Random& random, const std::vector<int64_t>& lengths, const std::vector<int64_t>& contexts);
    int64_t sequences, rows = 0, slots_held;
    Ints offsets, context_lens, slots;
};

// The plain C++ kernels, which all other kernels must equal.
inline const Kernels& plain_kernels() { return instruction_sets().front().kernels; }

using Outputs = std::vector<Floats>;
using Run = std::function<void(const Kernels&, Pool&, Outputs&)>;

// Runs cases with every instruction set, on one and on several threads, and counts failures.
class Suite {
  public:
    explicit Suite(std::vector<const InstructionSet*> sets) : sets_(std::move(sets)) {}

    // body(kernels, pool) says what is wrong, or nothing. The pool's scratch memory starts as NaN.
    void each(const std::string& what, const std::function<std::string(const Kernels&, Pool&)>& body);

    // `run`, applied to `start`, must equal the plain kernels within `tolerance` of the largest value, and give the same bits
    // for any number of threads.
    void check(const std::string& what, double tolerance, const Outputs& start, const Run& run);

    // Numbers must equal those of another way to compute them, within `tolerance` of the largest value.
    void equal(const std::string& what, const Floats& actual, const Floats& expected, double tolerance);

    int64_t runs() const { return runs_; }
    int64_t failures() const { return failures_; }

  private:
    std::vector<const InstructionSet*> sets_;
    int64_t cases_ = 0, runs_ = 0, failures_ = 0;
};

// "linear rows=3 inputs=7"
std::string describe(const std::string& kernel, std::initializer_list<std::pair<const char*, int64_t>> sizes);

std::string list(const std::vector<int64_t>& numbers);

void dense_cases(Suite& suite);
void quantized_cases(Suite& suite);
void sequence_cases(Suite& suite);
int64_t tile_cases(const std::vector<const InstructionSet*>& sets);  // returns the failures

}  // namespace pocketvlm::test
