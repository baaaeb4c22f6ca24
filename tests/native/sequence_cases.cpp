// Cases of the kernels that know sequences: attention, convolution, delta rule, and their state between calls.
#include <algorithm>
#include <cmath>

#include "kit.h"

namespace pocketvlm::test {
namespace {

using Longs = std::vector<int64_t>;

// Pages of all sequences of a batch in any order, -1 where a table has none.
struct Pages {
    Pages(Random& random, const Batch& batch, int64_t page_size_) : page_size(page_size_) {
        int64_t max_pages = 0;
        for (int64_t s = 0; s < batch.sequences; ++s) used += pages(batch, s), max_pages = std::max(max_pages, pages(batch, s));
        width = max_pages + 1;
        table = Ptr(new Ints(batch.sequences * width));
        const Ints order = random.permutation(used + 2, used + 2);
        for (int64_t s = 0, next = 0; s < batch.sequences; ++s)
            for (int64_t i = 0; i < pages(batch, s); ++i) (*table)[s * width + i] = order[next++];
        held = used + 2;
    }
    int64_t pages(const Batch& batch, int64_t s) const {
        return (batch.context_lens[s] + batch.offsets[s + 1] - batch.offsets[s] + page_size - 1) / page_size;
    }

    using Ptr = std::unique_ptr<Ints>;
    int64_t page_size, width = 0, used = 0, held = 0;
    Ptr table;
};

// Keys and values of a cache in one of the types; floats(row, ...) are the numbers that the type holds.
struct Cache {
    Cache(KVType type_, int64_t rows, int64_t page_size_, int64_t kv_heads_, int64_t head_dim_)
        : type(type_), page_size(page_size_), kv_heads(kv_heads_), head_dim(head_dim_), floats(type == KVType::float32 ? rows * kv_heads * head_dim : 0),
          bfloats(type == KVType::bfloat16 ? rows * kv_heads * head_dim : 0), bytes(type == KVType::int8 ? rows * kv_heads * head_dim : 0),
          scales(type == KVType::int8 ? rows * kv_heads : 0) {}

    void* numbers() {
        return type == KVType::float32 ? static_cast<void*>(floats.data()) : type == KVType::bfloat16 ? static_cast<void*>(bfloats.data()) : bytes.data();
    }
    float* scale() { return type == KVType::int8 ? scales.data() : nullptr; }
    int64_t at(int64_t row, int64_t h) const { return (row / page_size * kv_heads + h) * page_size + row % page_size; }
    // The number at head h, position j of a row, as a float.
    float number(int64_t row, int64_t h, int64_t j) const {
        const int64_t i = at(row, h) * head_dim + j;
        if (type == KVType::float32) return floats[i];
        if (type == KVType::int8) return static_cast<float>(bytes[i]) * scales[at(row, h)];
        const uint32_t bits = static_cast<uint32_t>(bfloats[i]) << 16;
        float x;
        std::memcpy(&x, &bits, 4);
        return x;
    }
    void fill(Random& random, int64_t row) {
        for (int64_t h = 0; h < kv_heads; ++h) {
            if (type == KVType::int8) scales[at(row, h)] = 0.001f + 0.03f * random.unit();
            for (int64_t j = 0; j < head_dim; ++j) {
                const int64_t i = at(row, h) * head_dim + j;
                if (type == KVType::float32) floats[i] = random.normal();
                if (type == KVType::int8) bytes[i] = static_cast<int8_t>(random.below(255) - 127);
                if (type != KVType::bfloat16) continue;
                const float x = random.normal();
                std::memcpy(&bfloats[i], reinterpret_cast<const char*>(&x) + 2, 2);
            }
        }
    }

    KVType type;
    int64_t page_size, kv_heads, head_dim;
    Floats floats;
    Array<uint16_t> bfloats;
    Array<int8_t> bytes;
    Floats scales;
};

constexpr KVType kv_types[] = {KVType::float32, KVType::bfloat16, KVType::int8};

// The sums as they are defined, in double precision.
Floats plain_attention(const Floats& query, const Cache& keys, const Cache& values, const Batch& batch, const Pages& pages, int64_t heads) {
    const int64_t d = keys.head_dim, kv_heads = keys.kv_heads;
    Floats out(query.size());
    for (int64_t s = 0; s < batch.sequences; ++s)
        for (int64_t r = batch.offsets[s]; r < batch.offsets[s + 1]; ++r)
            for (int64_t h = 0; h < heads; ++h) {
                const int64_t last = batch.context_lens[s] + r - batch.offsets[s], kv_head = h / (heads / kv_heads);
                const auto row = [&](int64_t t) { return (*pages.table)[s * pages.width + t / pages.page_size] * pages.page_size + t % pages.page_size; };
                std::vector<double> scores, sums(static_cast<std::size_t>(d), 0.0);
                double top = -1e300, total = 0.0;
                for (int64_t t = 0; t <= last; ++t) {
                    double score = 0.0;
                    for (int64_t j = 0; j < d; ++j) score += static_cast<double>(query[(r * heads + h) * d + j]) * keys.number(row(t), kv_head, j);
                    scores.push_back(score / std::sqrt(static_cast<double>(d)));
                    top = std::max(top, scores.back());
                }
                for (int64_t t = 0; t <= last; ++t) {
                    const double weight = std::exp(scores[static_cast<std::size_t>(t)] - top);
                    total += weight;
                    for (int64_t j = 0; j < d; ++j) sums[static_cast<std::size_t>(j)] += weight * values.number(row(t), kv_head, j);
                }
                for (int64_t j = 0; j < d; ++j) out[(r * heads + h) * d + j] = static_cast<float>(sums[static_cast<std::size_t>(j)] / total);
            }
    return out;
}

void causal_case(Suite& suite, const Longs& lengths, const Longs& contexts, int64_t page_size, int64_t heads, int64_t kv_heads,
                 int64_t head_dim, bool fast, KVType type) {
    Random random(static_cast<uint64_t>(head_dim * 100 + heads));
    const Batch batch(random, lengths, contexts);
    const Pages pages(random, batch, page_size);
    const Floats query = random.floats(batch.rows * heads * head_dim, 2.0f);
    Cache keys(type, pages.held * page_size, page_size, kv_heads, head_dim), values(type, pages.held * page_size, page_size, kv_heads, head_dim);
    // NaN, or codes with a scale of NaN, except for the rows that a table names.
    for (int64_t s = 0; s < batch.sequences; ++s)
        for (int64_t t = 0; t < batch.context_lens[s] + batch.offsets[s + 1] - batch.offsets[s]; ++t) {
            const int64_t row = (*pages.table)[s * pages.width + t / page_size] * page_size + t % page_size;
            keys.fill(random, row), values.fill(random, row);
        }
    const auto what = describe("attention lengths=" + list(lengths) + " context=" + list(contexts),
                               {{"page", page_size}, {"heads", heads}, {"kv_heads", kv_heads}, {"head_dim", head_dim}, {"fast", fast},
                                {"type", static_cast<int64_t>(type)}});
    const Floats exact = plain_attention(query, keys, values, batch, pages, heads);
    const auto run = [&](const Kernels& kernels, Pool& pool, Outputs& out) {
        kernels.attention(pool, CausalAttention{query.data(), type, keys.numbers(), values.numbers(), keys.scale(), values.scale(),
                                                batch.offsets.data(), batch.context_lens.data(), pages.table->data(), out[0].data(),
                                                batch.sequences, pages.width, page_size, heads, kv_heads, head_dim, fast});
    };
    suite.check(what, fast ? 3e-2 : 4e-6, {Floats(query.size())}, run);
    Outputs plain{Floats(query.size())};
    Pool pool(1);
    run(plain_kernels(), pool, plain);
    suite.equal(what + ", plain sums", plain[0], exact, 1e-5);
}

void inputs_case(Suite& suite, int64_t rows, int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t rotary_dim, KVType type,
                 bool three_axes = false) {
    Random random(static_cast<uint64_t>(rows * 100 + head_dim));
    const Floats query_gate = random.floats(rows * heads * 2 * head_dim), key = random.floats(rows * kv_heads * head_dim);
    const Floats value = random.floats(key.size()), q_norm = random.floats(head_dim), k_norm = random.floats(head_dim);
    Floats frequencies(rotary_dim / 2);
    for (int64_t i = 0; i < frequencies.size(); ++i) frequencies[i] = 1.0f / static_cast<float>(1 + i * i);
    Ints positions(three_axes ? 3 * rows : rows), axes(rotary_dim / 2);
    for (int64_t i = 0; i < axes.size(); ++i) axes[i] = three_axes ? static_cast<int32_t>(i % 3) : 0;
    for (int64_t r = 0; r < positions.size(); ++r) positions[r] = static_cast<int32_t>(random.below(3000));
    const int64_t page_size = 3, places = (rows + 5) / page_size * page_size;
    const Ints cache_rows = random.permutation(rows, places);
    const auto what = describe("attention_inputs", {{"rows", rows}, {"heads", heads}, {"kv_heads", kv_heads}, {"head_dim", head_dim},
                               {"rotary", rotary_dim}, {"three_axes", three_axes}, {"type", static_cast<int64_t>(type)}});
    // A number may fall on either side of a step of its type; rows that no row of the batch names keep their bits.
    const double step = type == KVType::float32 ? 3e-6 : type == KVType::bfloat16 ? 8e-3 : 9e-3;
    const Floats cache(places * kv_heads * head_dim), out(rows * heads * head_dim);
    const auto run = [&](const Kernels& kernels, Pool& pool, Outputs& o) {
        Cache keys(type, places, page_size, kv_heads, head_dim), values(type, places, page_size, kv_heads, head_dim);
        kernels.attention_inputs(pool, AttentionInputs{query_gate.data(), key.data(), value.data(), q_norm.data(), k_norm.data(),
                                                       frequencies.data(), type, keys.numbers(), values.numbers(), keys.scale(),
                                                       values.scale(), positions.data(), axes.data(), cache_rows.data(), o[0].data(),
                                                       o[1].data(), page_size, rows, heads, kv_heads, head_dim, rotary_dim, 1e-6f});
        for (int64_t r = 0, i = 0; r < places; ++r)
            for (int64_t h = 0; h < kv_heads; ++h)
                for (int64_t j = 0; j < head_dim; ++j, ++i) o[2][i] = keys.number(r, h, j), o[3][i] = values.number(r, h, j);
    };
    suite.check(what, step, {out, out, cache, cache}, run);
    // Values are stored as they come, each within half a step of the type.
    Outputs stored{out, out, cache, cache};
    Pool pool(1);
    run(plain_kernels(), pool, stored);
    Floats expected(stored[3]);
    for (int64_t r = 0; r < rows; ++r)
        std::copy_n(value.data() + r * kv_heads * head_dim, kv_heads * head_dim, expected.data() + cache_rows[r] * kv_heads * head_dim);
    suite.equal(what + ", stored values", stored[3], expected, type == KVType::float32 ? 0.0 : 4e-3);
}

void views_case(Suite& suite, const Longs& lengths, int64_t heads, int64_t head_dim, bool fast, bool bytes = false) {
    Random random(static_cast<uint64_t>(head_dim));
    const Batch batch(random, lengths, Longs(lengths.size(), 0));
    const int64_t size = batch.rows * heads * head_dim;
    const Floats query = random.floats(size, 2.0f), key = random.floats(size), value = random.floats(size);
    const auto what = describe("attention_views lengths=" + list(lengths), {{"heads", heads}, {"head_dim", head_dim}, {"fast", fast},
                               {"bytes", bytes}});
    suite.check(what, fast ? 3e-2 : 4e-6, {Floats(size)}, [&](const Kernels& kernels, Pool& pool, Outputs& out) {
        kernels.attention_views(pool, ViewAttention{query.data(), key.data(), value.data(), batch.offsets.data(), out[0].data(),
                                                    batch.sequences, heads, head_dim, fast, bytes});
    });
}

// The root of the mean square of the error, as a part of that of the numbers.
double relative_error(const Floats& actual, const Floats& expected) {
    double error = 0.0, size = 1e-30;
    for (int64_t i = 0; i < expected.size(); ++i) {
        const double e = expected[i], difference = actual[i] - e;
        error += difference * difference, size += e * e;
    }
    return std::sqrt(error / size);
}

std::string too_far(const Floats& actual, const Floats& expected) {
    constexpr double allowed = 6e-3;  // factors have 8 bits of mantissa
    const double error = relative_error(actual, expected);
    return error <= allowed ? "" : "relative error " + std::to_string(error);
}

// Rows [first, last) of `width` numbers must have the same bits in both.
std::string other_bits(const char* what, const Floats& actual, const Floats& expected, int64_t first, int64_t last, int64_t width) {
    for (int64_t i = first * width; i < last * width; ++i)
        if (std::memcmp(&actual[i], &expected[i], sizeof(float)) != 0) return std::string(what) + " at row " + std::to_string(i / width);
    return "";
}

// Fast products against exact ones, and each view alone.
void fast_views_case(Suite& suite, const Longs& lengths, int64_t heads, int64_t head_dim, float common = 0.0f) {
    Random random(static_cast<uint64_t>(head_dim * 10 + heads));
    const Batch batch(random, lengths, Longs(lengths.size(), 0));
    const int64_t width = heads * head_dim, size = batch.rows * width;
    const Floats query = random.floats(size, 2.0f), value = random.floats(size), shift = random.floats(width, common);
    Floats key = random.floats(size);
    for (int64_t i = 0; i < size; ++i) key[i] += shift[i % width];
    const auto attend = [&](const Kernels& kernels, Pool& pool, const Floats& keys, const Ints& offsets, bool fast, Floats& out) {
        kernels.attention_views(pool, ViewAttention{query.data(), keys.data(), value.data(), offsets.data(), out.data(), offsets.size() - 1,
                                                    heads, head_dim, fast, common != 0.0f});
    };
    Floats exact(size);
    Pool one(1);
    attend(plain_kernels(), one, key, batch.offsets, false, exact);
    const auto what = describe("fast attention_views lengths=" + list(lengths), {{"heads", heads}, {"head_dim", head_dim}});
    suite.each(what, [&](const Kernels& kernels, Pool& pool) -> std::string {
        Floats together(size), alone(size);
        attend(kernels, pool, key, batch.offsets, true, together);
        for (int64_t view = 0; view < batch.sequences; ++view) {
            Ints offsets(2);
            offsets[0] = batch.offsets[view], offsets[1] = batch.offsets[view + 1];
            attend(kernels, pool, key, offsets, true, alone);
        }
        if (const std::string wrong = other_bits("not as alone", together, alone, 0, batch.rows, width); !wrong.empty()) return wrong;
        return common == 0.0f ? too_far(together, exact) : relative_error(together, exact) < 2e-2 ? "" : "imprecise";
    });
}

// Fast products against exact ones, each sequence alone, and each in two parts at row `split`.
void fast_causal_case(Suite& suite, const Longs& lengths, const Longs& contexts, int64_t page_size, int64_t heads, int64_t kv_heads,
                      int64_t head_dim, KVType type, int64_t split) {
    Random random(static_cast<uint64_t>(head_dim * 100 + heads));
    const Batch batch(random, lengths, contexts);
    const Pages pages(random, batch, page_size);
    const int64_t width = heads * head_dim;
    const Floats query = random.floats(batch.rows * width, 2.0f);
    Cache keys(type, pages.held * page_size, page_size, kv_heads, head_dim), values(type, pages.held * page_size, page_size, kv_heads, head_dim);
    for (int64_t s = 0; s < batch.sequences; ++s)
        for (int64_t t = 0; t < batch.context_lens[s] + batch.offsets[s + 1] - batch.offsets[s]; ++t) {
            const int64_t row = (*pages.table)[s * pages.width + t / page_size] * page_size + t % page_size;
            keys.fill(random, row), values.fill(random, row);
        }
    // Sequences [first, first + count) with these offsets and context lengths.
    const auto attend = [&](const Kernels& kernels, Pool& pool, int64_t first, const Ints& offsets, const Ints& context_lens, bool fast, Floats& out) {
        kernels.attention(pool, CausalAttention{query.data(), type, keys.numbers(), values.numbers(), keys.scale(), values.scale(), offsets.data(),
                                                context_lens.data(), pages.table->data() + first * pages.width, out.data(), context_lens.size(),
                                                pages.width, page_size, heads, kv_heads, head_dim, fast});
    };
    Floats exact(query.size());
    Pool one(1);
    attend(plain_kernels(), one, 0, batch.offsets, batch.context_lens, false, exact);
    const auto what = describe("fast attention lengths=" + list(lengths) + " context=" + list(contexts),
                               {{"page", page_size}, {"heads", heads}, {"kv_heads", kv_heads}, {"head_dim", head_dim}, {"type", static_cast<int64_t>(type)}});
    suite.each(what, [&](const Kernels& kernels, Pool& pool) -> std::string {
        Floats together(query.size()), alone(query.size()), parts(query.size());
        attend(kernels, pool, 0, batch.offsets, batch.context_lens, true, together);
        for (int64_t s = 0; s < batch.sequences; ++s) {
            const auto run = [&](int32_t first, int32_t last, Floats& out) {
                Ints offsets(2), context_lens(1);
                offsets[0] = batch.offsets[s] + first, offsets[1] = batch.offsets[s] + last, context_lens[0] = batch.context_lens[s] + first;
                attend(kernels, pool, s, offsets, context_lens, true, out);
            };
            const auto rows = static_cast<int32_t>(batch.offsets[s + 1] - batch.offsets[s]), middle = static_cast<int32_t>(split);
            run(0, rows, alone);
            // A part of few rows is computed as single rows, with other rounding.
            const bool in_parts = middle > 3 && rows - middle > 3;
            if (in_parts) run(0, middle, parts);
            run(in_parts ? middle : 0, rows, parts);
        }
        if (const std::string wrong = other_bits("not as alone", together, alone, 0, batch.rows, width); !wrong.empty()) return wrong;
        if (const std::string wrong = other_bits("not as in two parts", together, parts, 0, batch.rows, width); !wrong.empty()) return wrong;
        return too_far(together, exact);
    });
}

// Slots to write: those that are read, but for the first sequence a slot that no sequence has.
Ints other_slots(const Batch& batch) {
    Ints to(batch.slots);
    int32_t free = 0;
    for (int64_t s = 0; s < batch.sequences; ++s)
        if (batch.slots[s] == free) ++free, s = -1;
    to[0] = free;
    return to;
}

void conv_case(Suite& suite, const Longs& lengths, const Longs& contexts, int64_t channels, int64_t taps) {
    Random random(static_cast<uint64_t>(channels * 10 + taps));
    const Batch batch(random, lengths, contexts);
    const Floats x = random.floats(batch.rows * channels), weight = random.floats(taps * channels);
    const Floats state = random.floats(batch.slots_held * (taps - 1) * channels);
    const Ints to = other_slots(batch);
    const auto what = describe("conv_silu lengths=" + list(lengths) + " context=" + list(contexts), {{"channels", channels}, {"taps", taps}});
    suite.check(what, 2e-6, {Floats(x.size()), state}, [&](const Kernels& kernels, Pool& pool, Outputs& out) {
        kernels.conv_silu(pool, ConvSilu{x.data(), weight.data(), out[1].data(), batch.offsets.data(), batch.context_lens.data(),
                                         batch.slots.data(), to.data(), out[0].data(), batch.sequences, channels, taps});
    });
}

void delta_case(Suite& suite, const Longs& lengths, const Longs& contexts, int64_t key_heads, int64_t value_heads, int64_t key_dim,
                int64_t value_dim, bool fast) {
    Random random(static_cast<uint64_t>(key_dim * 100 + value_dim));
    const Batch batch(random, lengths, contexts);
    const Floats mixed = random.floats(batch.rows * (2 * key_heads * key_dim + value_heads * value_dim));
    const Floats b = random.floats(batch.rows * value_heads), a = random.floats(b.size()), a_log = random.floats(value_heads);
    const Ints to = other_slots(batch);
    const Floats dt_bias = random.floats(value_heads), state = random.floats(batch.slots_held * value_heads * key_dim * value_dim);
    const auto what = describe("gated_delta_rule lengths=" + list(lengths) + " context=" + list(contexts),
                               {{"key_heads", key_heads}, {"value_heads", value_heads}, {"key_dim", key_dim}, {"value_dim", value_dim},
                                {"fast", fast}});
    suite.check(what, fast ? 2e-2 : 5e-6, {Floats(batch.rows * value_heads * value_dim), state}, [&](const Kernels& kernels, Pool& pool, Outputs& out) {
        kernels.gated_delta_rule(pool, DeltaRule{mixed.data(), b.data(), a.data(), a_log.data(), dt_bias.data(), out[1].data(),
                                                 batch.offsets.data(), batch.context_lens.data(), batch.slots.data(), to.data(),
                                                 out[0].data(), batch.sequences, key_heads, value_heads, key_dim, value_dim, fast});
    });
}

}  // namespace

void sequence_cases(Suite& suite) {
    for (const int64_t head_dim : {1, 8, 20, 33, 64}) {
        for (const KVType type : kv_types) {
            inputs_case(suite, 1, 4, 2, head_dim, head_dim / 2 * 2, type);
            inputs_case(suite, 9, 3, 1, head_dim, head_dim / 8 * 2, type);
            inputs_case(suite, 9, 3, 1, head_dim, head_dim / 8 * 2, type, true);
        }
        for (const bool fast : {false, true}) {
            views_case(suite, {1}, 3, head_dim, fast);
            views_case(suite, {4, 4, 2, 3, 4, 1, 4}, 3, head_dim, fast);
            views_case(suite, {5, 33, 17, 1}, 2, head_dim, fast);
            views_case(suite, {100, 35}, 2, head_dim, fast);
            if (fast) views_case(suite, {100, 35}, 2, head_dim, fast, true);
            for (const KVType type : kv_types) {
                causal_case(suite, {1}, {0}, 4, 2, 2, head_dim, fast, type);
                causal_case(suite, {1, 3, 9}, {20, 0, 7}, 5, 6, 2, head_dim, fast, type);
                causal_case(suite, {4, 1, 70}, {0, 40, 31}, 16, 5, 1, head_dim, fast, type);
            }
        }
    }
    views_case(suite, {1300}, 1, 20, false);  // more than one block of keys and of weights
    views_case(suite, {1300}, 1, 20, true);
    views_case(suite, {1300, 32, 47}, 1, 72, true, true);
    for (const KVType type : kv_types) {
        for (const bool fast : {false, true}) causal_case(suite, {2, 5, 150}, {1100, 600, 1000}, 64, 4, 1, 20, fast, type);  // spans of keys
        causal_case(suite, {1, 50}, {700, 300}, 64, 8, 2, 256, true, type);  // the released shape
        causal_case(suite, {1}, {9000}, 64, 16, 2, 72, false, type);         // spans that several threads join
    }
    // Sizes on both sides of those of tiles: 16, 32 and 256.
    constexpr int64_t head_dims[] = {8, 15, 16, 17, 31, 33, 48, 65, 72, 80, 97, 128, 256};
    int64_t i = 0;
    for (int64_t n = 1; n <= 130; n += n < 28 || (n > 36 && n < 60) ? 5 : 1, ++i)
        fast_views_case(suite, {n, 3, 132 - n}, 1 + i % 5, head_dims[i % 13]);
    fast_views_case(suite, {256, 4, 4, 300}, 2, 72);
    fast_views_case(suite, {1024, 33}, 1, 72);
    fast_views_case(suite, {512, 513, 255}, 1, 40);
    fast_views_case(suite, {300, 40}, 2, 72, 30.0f);
    for (const KVType type : kv_types) {
        for (const int64_t head_dim : {8, 17, 72, 128}) {
            fast_causal_case(suite, {1, 40, 3, 130, 1}, {300, 0, 20, 250, 9}, 16, 4, 2, head_dim, type, 17);
            fast_causal_case(suite, {9, 65, 4}, {0, 190, 255}, 5, 3, 1, head_dim, type, 33);
        }
        fast_causal_case(suite, {300, 2, 50}, {0, 700, 511}, 64, 8, 2, 256, type, 100);
    }
    for (const int64_t channels : {1, 7, 40, 1031})
        for (const int64_t taps : {1, 2, 4, 5}) {
            conv_case(suite, {1, 1, 1}, {0, 5, 2}, channels, taps);
            conv_case(suite, {1, 2, 9}, {3, 4, 0}, channels, taps);
            conv_case(suite, {70, 1, 3}, {1, 0, 1}, channels, taps);
        }
    constexpr std::pair<int64_t, int64_t> dims[] = {{8, 8}, {20, 17}, {33, 40}, {1, 3}, {16, 64}, {32, 130}, {128, 128}};
    for (const auto& [key_dim, value_dim] : dims)
        for (const bool fast : {false, true}) {
            delta_case(suite, {1, 1, 1}, {4, 0, 9}, 2, 4, key_dim, value_dim, fast);
            delta_case(suite, {8, 9, 2}, {3, 1, 0}, 1, 3, key_dim, value_dim, fast);
            delta_case(suite, {33, 1, 70}, {0, 2, 1}, 2, 2, key_dim, value_dim, fast);
        }
    for (const bool fast : {false, true})
        for (int64_t rows = 1; rows <= 130; ++rows) delta_case(suite, {rows}, {rows % 3}, 1, 1, 36, 24, fast);
}

}  // namespace pocketvlm::test
