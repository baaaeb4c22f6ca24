// Low-rank updates: both products of all updates in one parallel loop. A row's sums have one order, whatever the other rows are.
#include "lowrank/lowrank.h"

#include <sched.h>

#include "simd/parallel.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

constexpr int64_t block = low_rank_block, half = block / 2;
constexpr int together = many_registers ? 4 : 2;  // rows of one tile of sums
constexpr int64_t row_block = 32, rank_block = 4, block_bytes = 16384;

// Numbers at .. at + W and half + at .. half + at + W of a block.
inline void load_pair(const float* p, int64_t at, Vec& first, Vec& second) {
    first = load(p + at);
    second = load(p + half + at);
}
inline void load_pair(const uint16_t* p, int64_t at, Vec& first, Vec& second) {
    const Vec bits = load_bits(p + 2 * at);
    first = low_bf16(bits);
    second = high_bf16(bits);
}

struct Shape {
    int64_t row_blocks, parts;
    int64_t tasks() const { return row_blocks * parts; }
};

// Tasks of the first product: blocks of rows and of ranks.
inline int64_t ranks_at_once(const LowRank& u) { return u.count <= 2 * together ? rank_block : 4 * rank_block; }
inline Shape down_shape(const LowRank& u) { return {divide_up(u.count, row_block), divide_up(u.rank, ranks_at_once(u))}; }

// Tasks of the second product: blocks of rows and of outputs.
template <class T>
inline int64_t outputs_at_once(const LowRank& u) {
    return max(1, block_bytes / (u.rank * block * static_cast<int64_t>(sizeof(T))));
}
template <class T>
inline Shape up_shape(const LowRank& u) {
    return {divide_up(u.count, row_block), divide_up(divide_up(u.outputs, block), outputs_at_once<T>(u))};
}

inline int64_t row_of(const LowRank& u, int64_t i) { return u.rows ? u.rows[i] : i; }

// inner[r * rank + k] = scale * dot(x[r], a[k]) for Rows rows and Ranks ranks; each sum has one order.
template <int Rows, int Ranks, class T>
inline void dots(const float* const* x, const T* a, int64_t inputs, int64_t depth, float scale, float* inner, int64_t rank) {
    Vec sums[Ranks][Rows];
#pragma GCC unroll 4
    for (int k = 0; k < Ranks; ++k)
#pragma GCC unroll 4
        for (int r = 0; r < Rows; ++r) sums[k][r] = zero();
    int64_t i = 0;
    for (; i + block <= inputs; i += block) {
#pragma GCC unroll 4
        for (int64_t at = 0; at < half; at += W) {
#pragma GCC unroll 4
            for (int k = 0; k < Ranks; ++k) {
                Vec first, second;
                load_pair(a + k * depth + i, at, first, second);
#pragma GCC unroll 4
                for (int r = 0; r < Rows; ++r) {
                    sums[k][r] = fma(first, load(x[r] + i + at), sums[k][r]);
                    sums[k][r] = fma(second, load(x[r] + i + half + at), sums[k][r]);
                }
            }
        }
    }
    if (i < inputs) {
        for (int64_t at = 0; at < half; at += W) {
            for (int k = 0; k < Ranks; ++k) {
                Vec first, second;
                load_pair(a + k * depth + i, at, first, second);
                for (int r = 0; r < Rows; ++r) {
                    sums[k][r] = fma(first, load_some(x[r] + i + at, inputs - i - at), sums[k][r]);
                    sums[k][r] = fma(second, load_some(x[r] + i + half + at, inputs - i - half - at), sums[k][r]);
                }
            }
        }
    }
    for (int k = 0; k < Ranks; ++k)
        for (int r = 0; r < Rows; ++r) inner[r * rank + k] = scale * sum(sums[k][r]);
}

template <int Rows, class T>
inline void dots_of(const float* const* x, const T* a, int64_t first, int64_t last, int64_t inputs, int64_t depth, const LowRank& u,
                    float* inner) {
    int64_t k = first;
    for (; k + 4 <= last; k += 4) dots<Rows, 4>(x, a + k * depth, inputs, depth, u.scale, inner + k, u.rank);
    for (; k < last; ++k) dots<Rows, 1>(x, a + k * depth, inputs, depth, u.scale, inner + k, u.rank);
}

template <class T>
inline void down(const LowRanks& g, const LowRank& u, int64_t task, float* inner) {
    const Shape shape = down_shape(u);
    const int64_t depth = round_up(g.inputs, block), ranks = ranks_at_once(u);
    const int64_t first = task % shape.parts * ranks, last = min(u.rank, first + ranks);
    const int64_t begin = task / shape.parts * row_block, end = min(u.count, begin + row_block);
    const T* a = static_cast<const T*>(u.a);
    for (int64_t i = begin; i < end; i += together) {
        const float* x[together];
        const int64_t n = min(together, end - i);
        for (int64_t r = 0; r < n; ++r) x[r] = g.x + row_of(u, i + r) * g.inputs;
        float* to = inner + i * u.rank;
        if (n == together) {
            dots_of<together>(x, a, first, last, g.inputs, depth, u, to);
        } else {
            for (int64_t r = 0; r < n; ++r) dots_of<1>(x + r, a, first, last, g.inputs, depth, u, to + r * u.rank);
        }
    }
}

// out[r][at .. at + W] and out[r][half + at .. half + at + W] += inner[r] b, for Rows rows; n outputs are left from out[r] on.
template <int Rows, class T>
inline void expand(const float* inner, const T* b, int64_t rank, int64_t at, int64_t n, float* const* out) {
    Vec low[Rows], high[Rows];
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) low[r] = high[r] = zero();
    for (int64_t k = 0; k < rank; ++k) {
        Vec first, second;
        load_pair(b + k * block, at, first, second);
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
        add(out[r] + half + at, n - half - at, high[r]);
    }
}

template <class T>
inline void up(const LowRank& u, int64_t task, const float* inner) {
    const Shape shape = up_shape<T>(u);
    const int64_t blocks = divide_up(u.outputs, block), many = outputs_at_once<T>(u);
    const int64_t first = task % shape.parts * many, last = min(blocks, first + many);
    const int64_t begin = task / shape.parts * row_block, end = min(u.count, begin + row_block);
    for (int64_t j = first; j < last; ++j) {
        const T* b = static_cast<const T*>(u.b) + j * u.rank * block;
        const int64_t n = min(block, u.outputs - j * block);
        for (int64_t i = begin; i < end; i += together) {
            float* out[together];
            const int64_t rows = min(together, end - i);
            for (int64_t r = 0; r < rows; ++r) out[r] = u.out + row_of(u, i + r) * u.outputs + j * block;
            const float* from = inner + i * u.rank;
            for (int64_t at = 0; at < half; at += W) {
                if (rows == together) {
                    expand<together>(from, b, u.rank, at, n, out);
                } else {
                    for (int64_t r = 0; r < rows; ++r) expand<1>(from + r * u.rank, b, u.rank, at, n, out + r);
                }
            }
        }
    }
}

// Waits until `finished` is `all`; gives the processor away now and then, to a thread that may have been interrupted.
inline void wait_for(const int64_t& finished, int64_t all) {
    for (int64_t i = 1; __atomic_load_n(&finished, __ATOMIC_ACQUIRE) < all; ++i) {
#if defined(__x86_64__) || defined(__i386__)
        __builtin_ia32_pause();
#endif
        if (i % 1024 == 0) sched_yield();
    }
}

template <class T>
void add(Pool& pool, const LowRanks& g) {
    int64_t floats = 0, downs = 0, ups = 0;
    for (int64_t i = 0; i < g.number; ++i) {
        const LowRank& u = g.updates[i];
        floats += u.count * u.rank;
        downs += down_shape(u).tasks();
        ups += up_shape<T>(u).tasks();
    }
    float* const inner = pool.shared(static_cast<size_t>(max(1, floats)) * sizeof(float));
    int64_t finished = 0;
    // Threads take tasks in rising order, so when one takes a task of the second product, all of the first are taken, and end
    // without waiting for another.
    parallel(pool, downs + ups, [&, inner](int64_t task, int) {
        const bool is_down = task < downs;
        if (!is_down) {
            task -= downs;
            wait_for(finished, downs);
        }
        float* own = inner;
        for (const LowRank* u = g.updates;; ++u) {
            const int64_t tasks = is_down ? down_shape(*u).tasks() : up_shape<T>(*u).tasks();
            if (task < tasks) {
                if (is_down)
                    down<T>(g, *u, task, own);
                else
                    up<T>(*u, task, own);
                break;
            }
            task -= tasks;
            own += u->count * u->rank;
        }
        if (is_down) __atomic_fetch_add(&finished, 1, __ATOMIC_RELEASE);
    });
}

}  // namespace

void add_low_rank(Pool& pool, const LowRanks& a) {
    if (a.bf16)
        add<uint16_t>(pool, a);
    else
        add<float>(pool, a);
}

}  // namespace pocketvlm::POCKETVLM_ISA
