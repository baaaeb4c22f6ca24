// Runs of rows in causal attention: which sequences are computed as such, and how a run is split into tasks.
#pragma once

#include "attention/attention.h"
#include "simd/simd.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

constexpr int64_t single_rows = 3;     // sequences with at most as many rows are computed as single rows
constexpr int64_t min_task_rows = 48;  // rows of one task of a run
constexpr int64_t max_task_rows = 192;

// Position of token t of sequence s in the cache, in rows of head_dim.
inline int64_t cache_row(const CausalAttention& a, int64_t s, int64_t t, int64_t kv_head) {
    return (a.pages[s * a.table_width + t / a.page_size] * a.kv_heads + kv_head) * a.page_size + t % a.page_size;
}

// Rows of one task of a run: some tasks for each thread, since the last ones attend to more keys; results do not depend on it.
inline int64_t rows_a_task(const CausalAttention& a, int threads) {
    const int64_t rows = a.offsets[a.sequences] - a.offsets[0];
    return min(max_task_rows, max(min_task_rows, divide_up(rows * a.kv_heads, 4 * threads * min_task_rows) * min_task_rows));
}

}  // namespace
}  // namespace pocketvlm::POCKETVLM_ISA
