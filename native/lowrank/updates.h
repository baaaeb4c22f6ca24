// The two products of low-rank updates as parts of a parallel loop: `InnerProducts` are tasks of their own, and
// `add_update` adds to a block of outputs. A row's sums have one order, whatever the other rows, blocks and tasks are.
#pragma once

#include "lowrank/lowrank.h"
#include "simd/parallel.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

constexpr int64_t low_rank_half = low_rank_block / 2;
constexpr int64_t rows_together = many_registers ? 4 : 2;  // rows of one tile of sums
constexpr int64_t update_rows = 32, update_ranks = 4;            // of a task

// Numbers at .. at + W and low_rank_half + at .. low_rank_half + at + W of a block.
inline void load_pair(const float* p, int64_t at, Vec& first, Vec& second) {
    first = load(p + at);
    second = load(p + low_rank_half + at);
}
inline void load_pair(const uint16_t* p, int64_t at, Vec& first, Vec& second) {
    const Vec bits = load_bits(p + 2 * at);
    first = low_bf16(bits);
    second = high_bf16(bits);
}

inline int64_t row_of(const LowRank& u, int64_t i) { return u.rows ? u.rows[i] : i; }

// --- inner products ---

// inner[r * rank + k] = scale * dot(x[r], a[k]) for Rows rows and Ranks ranks; each sum has one order. Prefetches the ranks
// after these, because each is too short for the processor to follow it.
template <int Rows, int Ranks, class T>
inline void inner_tile(const float* const* x, const T* a, int64_t inputs, int64_t depth, float scale, float* inner, int64_t rank) {
    Vec sums[Ranks][Rows];
#pragma GCC unroll 4
    for (int k = 0; k < Ranks; ++k)
#pragma GCC unroll 4
        for (int r = 0; r < Rows; ++r) sums[k][r] = zero();
    int64_t i = 0;
    for (; i + low_rank_block <= inputs; i += low_rank_block) {
#pragma GCC unroll 4
        for (int64_t at = 0; at < low_rank_half; at += W) {
#pragma GCC unroll 4
            for (int k = 0; k < Ranks; ++k) {
                Vec first, second;
                load_pair(a + k * depth + i, at, first, second);
                if (at == 0) __builtin_prefetch(a + (k + Ranks) * depth + i);
#pragma GCC unroll 4
                for (int r = 0; r < Rows; ++r) {
                    sums[k][r] = fma(first, load(x[r] + i + at), sums[k][r]);
                    sums[k][r] = fma(second, load(x[r] + i + low_rank_half + at), sums[k][r]);
                }
            }
        }
    }
    if (i < inputs) {
        for (int64_t at = 0; at < low_rank_half; at += W) {
            for (int k = 0; k < Ranks; ++k) {
                Vec first, second;
                load_pair(a + k * depth + i, at, first, second);
                for (int r = 0; r < Rows; ++r) {
                    sums[k][r] = fma(first, load_some(x[r] + i + at, inputs - i - at), sums[k][r]);
                    sums[k][r] = fma(second, load_some(x[r] + i + low_rank_half + at, inputs - i - low_rank_half - at), sums[k][r]);
                }
            }
        }
    }
    for (int k = 0; k < Ranks; ++k)
        for (int r = 0; r < Rows; ++r) inner[r * rank + k] = scale * sum(sums[k][r]);
}

template <int Rows, class T>
inline void inner_ranks(const float* const* x, const T* a, int64_t first, int64_t last, int64_t inputs, int64_t depth, const LowRank& u,
                        float* inner) {
    int64_t k = first;
    for (; k + 4 <= last; k += 4) inner_tile<Rows, 4>(x, a + k * depth, inputs, depth, u.scale, inner + k, u.rank);
    for (; k < last; ++k) inner_tile<Rows, 1>(x, a + k * depth, inputs, depth, u.scale, inner + k, u.rank);
}

// The inner products of the updates of one call, [count][rank] of each, one after the other.
class InnerProducts {
  public:
    static size_t bytes(const LowRanks& g) {
        int64_t floats = 0;
        for (int64_t i = 0; i < g.number; ++i) floats += g.updates[i].count * g.updates[i].rank;
        return static_cast<size_t>(max(1, floats)) * sizeof(float);
    }

    // memory: bytes(g), which the tasks write.
    InnerProducts(const Pool& pool, const LowRanks& g, float* memory) : g_(g), memory_(memory) {
        int64_t ranks = 0;
        for (int64_t i = 0; i < g.number; ++i) ranks += g.updates[i].rank;
        // Few rows: tasks just small enough for every thread to get some, because each start of a task costs time.
        few_ = round_up(divide_up(ranks, 2 * pool.threads()), update_ranks);
        for (int64_t i = 0; i < g.number; ++i) tasks_ += tasks_of(g.updates[i]);
    }

    // Tasks [0, tasks()) compute all.
    int64_t tasks() const { return tasks_; }
    void run(int64_t task) {
        float* inner = memory_;
        const LowRank* u = g_.updates;
        for (; task >= tasks_of(*u); inner += u->count * u->rank, ++u) task -= tasks_of(*u);
        if (g_.bf16)
            compute<uint16_t>(*u, task, inner);
        else
            compute<float>(*u, task, inner);
        progress_.add();
    }

    // Whether all tasks have ended. The loop must take tasks that wait for that after them.
    bool finished() const { return progress_.reached(tasks_); }
    void wait() const { progress_.wait(tasks_); }

    // Those of update `index`.
    const float* of(int64_t index) const {
        const float* inner = memory_;
        for (int64_t i = 0; i < index; ++i) inner += g_.updates[i].count * g_.updates[i].rank;
        return inner;
    }

  private:
    // Tasks are blocks of rows and of ranks.
    int64_t ranks_at_once(const LowRank& u) const { return u.count <= 2 * rows_together ? few_ : 4 * update_ranks; }
    int64_t parts(const LowRank& u) const { return divide_up(u.rank, ranks_at_once(u)); }
    int64_t tasks_of(const LowRank& u) const { return divide_up(u.count, update_rows) * parts(u); }

    template <class T>
    void compute(const LowRank& u, int64_t task, float* inner) const {
        const int64_t depth = round_up(g_.inputs, low_rank_block), ranks = ranks_at_once(u);
        const int64_t first = task % parts(u) * ranks, last = min(u.rank, first + ranks);
        const int64_t begin = task / parts(u) * update_rows, end = min(u.count, begin + update_rows);
        const T* a = static_cast<const T*>(u.a);
        for (int64_t i = begin; i < end; i += rows_together) {
            const float* x[rows_together];
            const int64_t n = min(rows_together, end - i);
            for (int64_t r = 0; r < n; ++r) x[r] = g_.x + row_of(u, i + r) * g_.inputs;
            float* to = inner + i * u.rank;
            if (n == rows_together) {
                inner_ranks<rows_together>(x, a, first, last, g_.inputs, depth, u, to);
            } else {
                for (int64_t r = 0; r < n; ++r) inner_ranks<1>(x + r, a, first, last, g_.inputs, depth, u, to + r * u.rank);
            }
        }
    }

    const LowRanks g_;
    float* memory_;
    int64_t few_, tasks_ = 0;
    Progress progress_;
};

// --- outputs ---

// out[r][at .. at + W] and out[r][low_rank_half + at .. low_rank_half + at + W] += inner[r] b, for Rows rows; n outputs are left from out[r] on.
template <int Rows, class T>
inline void expand(const float* inner, const T* b, int64_t rank, int64_t at, int64_t n, float* const* out) {
    Vec low[Rows], high[Rows];
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) low[r] = high[r] = zero();
    for (int64_t k = 0; k < rank; ++k) {
        Vec first, second;
        load_pair(b + k * low_rank_block, at, first, second);
#pragma GCC unroll 4
        for (int r = 0; r < Rows; ++r) {
            const Vec factor = splat(inner[r * rank + k]);
            low[r] = fma(factor, first, low[r]);
            high[r] = fma(factor, second, high[r]);
        }
    }
    const auto add = [](float* p, int64_t left, Vec v) {
        if (left >= W)
            store(p, load(p) + v);
        else if (left > 0)
            store_part(p, load_part(p, left) + v, left);
    };
    for (int r = 0; r < Rows; ++r) {
        add(out[r] + at, n - at, low[r]);
        add(out[r] + low_rank_half + at, n - low_rank_half - at, high[r]);
    }
}

// A block of outputs that lies anywhere: rows [row, row + rows) and columns [column, column + width), where `column` begins
// a block of 32. `first` is its first number; its rows lie `stride` apart.
struct OutputBlock {
    int64_t row, rows, column, width;
    float* first;
    int64_t stride;
};

constexpr int64_t blocks_ahead = 2;

template <class T>
inline void prefetch_blocks(const T* b, int64_t blocks, int64_t rank) {
    for (int64_t at = 0; at < blocks * rank * low_rank_block; at += static_cast<int64_t>(64 / sizeof(T))) __builtin_prefetch(b + at);
}

// Adds an update with these inner products to a block of outputs.
template <class T>
inline void add_update_of(const LowRank& u, const float* inner, const OutputBlock& to) {
    int64_t begin = to.row;
    if (u.rows)
        for (begin = 0; begin < u.count && u.rows[begin] < to.row;) ++begin;
    int64_t end = min(u.count, to.row + to.rows);
    if (u.rows)
        for (end = begin; end < u.count && u.rows[end] < to.row + to.rows;) ++end;
    for (int64_t j = 0; j < to.width; j += low_rank_block) {
        const T* b = static_cast<const T*>(u.b) + (to.column + j) * u.rank;
        const int64_t n = min(low_rank_block, to.width - j);
        prefetch_blocks(b + blocks_ahead * u.rank * low_rank_block, 1, u.rank);
        for (int64_t i = begin; i < end; i += rows_together) {
            float* out[rows_together];
            const int64_t rows = min(rows_together, end - i);
            for (int64_t r = 0; r < rows; ++r) out[r] = to.first + (row_of(u, i + r) - to.row) * to.stride + j;
            const float* from = inner + i * u.rank;
            for (int64_t at = 0; at < low_rank_half; at += W) {
                if (rows == rows_together) {
                    expand<rows_together>(from, b, u.rank, at, n, out);
                } else {
                    for (int64_t r = 0; r < rows; ++r) expand<1>(from + r * u.rank, b, u.rank, at, n, out + r);
                }
            }
        }
    }
}

inline void add_update(const LowRank& u, bool bf16, const float* inner, const OutputBlock& to) {
    if (bf16)
        add_update_of<uint16_t>(u, inner, to);
    else
        add_update_of<float>(u, inner, to);
}

// Prefetches what add_update reads first of the outputs from `column` on.
inline void prefetch_update(const LowRank& u, bool bf16, int64_t column) {
    if (bf16)
        prefetch_blocks(static_cast<const uint16_t*>(u.b) + column * u.rank, blocks_ahead, u.rank);
    else
        prefetch_blocks(static_cast<const float*>(u.b) + column * u.rank, blocks_ahead, u.rank);
}

}  // namespace
}  // namespace pocketvlm::POCKETVLM_ISA
