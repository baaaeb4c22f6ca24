// Attention inside views with products in tile registers. A task packs the keys and values of one pair (view, head) and runs
// some of its blocks of queries. The mean key is subtracted from every key first: it adds the same to all scores of a query, so
// the softmax does not change, and less is rounded.
#include "attention/byte_scores.h"
#include "attention/tile_block.h"
#include "attention/view_runs.h"

namespace pocketvlm::POCKETVLM_BFLOAT16_WITHOUT_TILES {
void attention_views(Pool& pool, const ViewAttention& a);
}

namespace pocketvlm::POCKETVLM_ISA {
namespace {

struct TileView {
    uint32_t *keys, *values, *queries;
    float *mean, *scores;
    TileSoftmax softmax;
};

inline int64_t tile_view_floats(int64_t keys, int64_t head_dim) {
    return tile_key_words(keys, head_dim) + tile_value_words(keys, head_dim) + tile_query_words(head_dim) +
           round_up(head_dim, tile_depth) + 2 * query_scores + tile_softmax_floats(head_dim);
}

inline TileView lay_out_tile_view(float* memory, int64_t keys, int64_t head_dim) {
    TileView s;
    s.keys = reinterpret_cast<uint32_t*>(memory), memory += tile_key_words(keys, head_dim);
    s.values = reinterpret_cast<uint32_t*>(memory), memory += tile_value_words(keys, head_dim);
    s.queries = reinterpret_cast<uint32_t*>(memory), memory += tile_query_words(head_dim);
    s.mean = memory, memory += round_up(head_dim, tile_depth);
    s.scores = memory, memory += 2 * query_scores;
    s.softmax = lay_out_tile_softmax(memory, head_dim);
    return s;
}

inline void view_head_tiles(const ViewAttention& a, const TileView& s, int64_t view, int64_t head, int64_t part, int64_t parts) {
    const int64_t start = a.offsets[view], n = a.offsets[view + 1] - start, d = a.head_dim, stride = a.heads * d;
    const int64_t base = start * stride + head * d;
    const TileScope tiles(attention_shapes());
    const auto key = [&](int64_t k) { return a.key + base + k * stride; };
    clear(s.mean, round_up(d, tile_depth));
    mean_of_keys(key, n, d, s.mean);
    const auto less = [&](const float* k, int64_t at) { return load_some(k + at, d - at) - load(s.mean + at); };
    pack_tile_keys(key, [&](const float* k, int64_t at) { return neighbours(less(k, at), less(k, at + W)); }, n, d, s.keys);
    pack_tile_values<float>([&](int64_t k) { return a.value + base + k * stride; }, n, d, s.values);
    const int64_t blocks = divide_up(n, tile_queries);
    for (int64_t block = part * blocks / parts; block < (part + 1) * blocks / parts; ++block) {
        const int64_t q0 = block * tile_queries, used = min(tile_queries, n - q0);
        const float* rows[tile_queries];
        for (int64_t j = 0; j < used; ++j) rows[j] = a.query + base + (q0 + j) * stride;
        pack_tile_queries(rows, used, d, s.queries);
        for (int64_t k = 0; k < n; k += tile_keys) {
            const TileBlock keys{.keys = s.keys + tile_key_words(k, d), .values = s.values + tile_value_words(k, d),
                                 .n = min(tile_keys, n - k), .seen = nullptr, .key_scales = nullptr, .value_scales = nullptr};
            add_tile_keys(s.softmax, keys, s.queries, d, k == 0, s.scores);
        }
        finish_tile_queries(s.softmax, used, d, [&](int64_t j) { return a.out + base + (q0 + j) * stride; });
    }
}

void attention_views_tiles(Pool& pool, const ViewAttention& a, int64_t longest) {
    pool.reserve(static_cast<size_t>(tile_view_floats(longest, a.head_dim)) * sizeof(float));
    const int64_t pairs = a.views * a.heads;
    const int64_t parts = min(divide_up(2 * pool.threads(), pairs), divide_up(longest, tile_queries));
    parallel(pool, pairs * parts, [&](int64_t task, int worker) {
        const TileView s = lay_out_tile_view(pool.scratch(worker), longest, a.head_dim);
        view_head_tiles(a, s, task / parts / a.heads, task / parts % a.heads, task % parts, parts);
    });
}

}  // namespace

// Short views, such as windows of four patches, would leave most of a block of queries empty.
void attention_views(Pool& pool, const ViewAttention& a) {
    const auto in_tiles = [&](int64_t rows) { return a.fast && rows >= tile_queries; };
    for_each_run(a, in_tiles, [&](const ViewAttention& run, int64_t longest, bool chosen) {
        chosen ? attention_views_tiles(pool, run, longest) : POCKETVLM_BFLOAT16_WITHOUT_TILES::attention_views(pool, run);
    });
}

}  // namespace pocketvlm::POCKETVLM_ISA
