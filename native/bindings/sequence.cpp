// Bindings of the operations that know sequences. All indices of a Batch are checked before a kernel uses them.
#include "bindings/arrays.h"
#include "bindings/runtime.h"

#include <vector>

namespace pocketvlm {
namespace {

constexpr int64_t long_cost = 1 << 20;  // for operations that never take only microseconds

std::string at(const char* name, int64_t i) { return std::string(name) + "[" + std::to_string(i) + "]"; }

// offsets [n + 1] from 0 to rows with at least one row between neighbours.
void check_offsets(const int32_t* p, int64_t n, int64_t rows) {
    if (n < 1 || p[0] != 0) refuse("offsets must begin with 0");
    for (int64_t i = 1; i < n; ++i)
        if (p[i] <= p[i - 1]) refuse(at("offsets", i) + " must be greater than " + at("offsets", i - 1));
    if (p[n - 1] != rows)
        refuse("offsets end at " + std::to_string(p[n - 1]) + ", but there are " + std::to_string(rows) + " rows");
}

// The parts of a Batch that recurrent operations use. Contents are checked at each run: a replayed operation sees new ones.
struct Slots {
    Slots(const Ints& offsets_, const Ints& context_lens_, const Ints& read_, const Ints& write_, int64_t rows_, int64_t limit_)
        : offsets(offsets_.shaped(-1).data()), context_lens(context_lens_.data()), read(read_.data()), write(write_.data()),
          sequences(offsets_.size() - 1), rows(rows_), limit(limit_) {
        context_lens_.shaped(sequences);
        read_.shaped(sequences);
        write_.shaped(sequences);
    }

    void check() const {
        check_offsets(offsets, sequences + 1, rows);
        for (int64_t s = 0; s < sequences; ++s) {
            if (context_lens[s] < 0) refuse(at("context_lens", s) + " is negative");
            check_slot("read_slots", read, s);
            check_slot("write_slots", write, s);
            for (int64_t t = 0; t < s; ++t)
                if (write[t] == write[s]) refuse(at("write_slots", s) + " is the slot of another sequence of the batch too");
        }
        for (int64_t s = 0; s < sequences; ++s)
            for (int64_t t = 0; t < sequences; ++t)
                if (t != s && write[t] == read[s]) refuse(at("read_slots", s) + " is a slot that another sequence of the batch writes");
    }

    void check_slot(const char* name, const int32_t* slots, int64_t s) const {
        if (slots[s] < 0 || slots[s] >= limit)
            refuse(at(name, s) + " is " + std::to_string(slots[s]) + ", but the state has " + std::to_string(limit) + " slots");
    }

    const int32_t *offsets, *context_lens, *read, *write;
    int64_t sequences, rows, limit;
};

// The parts of a Batch that attention uses: the page of every row must exist.
struct Pages {
    Pages(const Ints& offsets_, const Ints& context_lens_, const Ints& pages_, int64_t rows_, int64_t limit_, int64_t page_size_)
        : offsets(offsets_.shaped(-1).data()), context_lens(context_lens_.data()), pages(pages_.data()), sequences(offsets_.size() - 1),
          table_width(pages_.shaped(sequences, -1).dim(1)), rows(rows_), limit(limit_), page_size(page_size_) {
        context_lens_.shaped(sequences);
        if (page_size < 1) refuse("page_size must be positive");
    }

    void check() const {
        check_offsets(offsets, sequences + 1, rows);
        for (int64_t s = 0; s < sequences; ++s) {
            if (context_lens[s] < 0) refuse(at("context_lens", s) + " is negative");
            const int64_t length = static_cast<int64_t>(context_lens[s]) + offsets[s + 1] - offsets[s];
            const int64_t used = (length + page_size - 1) / page_size;
            if (used > table_width)
                refuse("sequence " + std::to_string(s) + " has " + std::to_string(length) + " tokens, but its page table holds " +
                       std::to_string(table_width * page_size));
            for (int64_t i = 0; i < used; ++i) {
                const int32_t page = pages[s * table_width + i];
                if (page < 0 || page >= limit)
                    refuse("pages[" + std::to_string(s) + ", " + std::to_string(i) + "] is " + std::to_string(page) +
                           ", but there are " + std::to_string(limit) + " pages");
            }
        }
    }

    // The row of the cache that each row of the batch is written to.
    std::vector<int32_t> cache_rows() const {
        std::vector<int32_t> found(static_cast<std::size_t>(rows));
        for (int64_t s = 0; s < sequences; ++s)
            for (int64_t r = offsets[s], t = context_lens[s]; r < offsets[s + 1]; ++r, ++t)
                found[static_cast<std::size_t>(r)] =
                    static_cast<int32_t>(pages[s * table_width + t / page_size] * page_size + t % page_size);
        return found;
    }

    const int32_t *offsets, *context_lens, *pages;
    int64_t sequences, table_width, rows, limit, page_size;
};

// The pages of a KV cache: (keys, values) of one of three types, or (keys, values, key_scales, value_scales) if they are int8.
// Void, Float: const for reading.
template <class Void, class Float>
struct Cache {
    Cache(const nb::tuple& arrays, int64_t page_size) {
        if (arrays.size() != 2 && arrays.size() != 4) refuse("a cache has 2 or 4 arrays, not " + std::to_string(arrays.size()));
        const nb::object keys_ = arrays[0], values_ = arrays[1];
        if (has_type<float>(keys_))
            take<float>(KVType::float32, keys_, values_, page_size);
        else if (has_type<uint16_t>(keys_))
            take<uint16_t>(KVType::bfloat16, keys_, values_, page_size);
        else if (has_type<int8_t>(keys_))
            take<int8_t>(KVType::int8, keys_, values_, page_size);
        else
            refuse("keys must be a C-contiguous array of float32, uint16 (bfloat16) or int8");
        if ((type == KVType::int8) != (arrays.size() == 4))
            refuse("keys and values of int8 need key_scales and value_scales, others have none");
        if (type != KVType::int8) return;
        key_scales = take_scales(arrays[2], "key_scales", page_size);
        value_scales = take_scales(arrays[3], "value_scales", page_size);
    }

    KVType type{};
    Void *keys = nullptr, *values = nullptr;
    Float *key_scales = nullptr, *value_scales = nullptr;
    int64_t pages = 0, kv_heads = 0, head_dim = 0;

  private:
    template <class T>
    void take(KVType type_, nb::handle keys_, nb::handle values_, int64_t page_size) {
        using Number = std::conditional_t<std::is_const_v<Void>, const T, T>;
        const Array<Number> k(keys_, "keys"), v(values_, "values");
        k.shaped(-1, -1, page_size, -1);
        type = type_, pages = k.dim(0), kv_heads = k.dim(1), head_dim = k.dim(3);
        v.shaped(pages, kv_heads, page_size, head_dim);
        keys = k.data(), values = v.data();
    }

    Float* take_scales(const nb::object& array, const char* name, int64_t page_size) const {
        const Array<Float> scales(array, name);
        scales.shaped(pages, kv_heads, page_size);
        return scales.data();
    }
};

void attention_inputs(Runtime& runtime, nb::handle query_gate, nb::handle key, nb::handle value, nb::handle q_norm, nb::handle k_norm,
                      nb::handle frequencies, nb::handle axes, const nb::tuple& arrays, nb::handle rotary_positions,
                      nb::handle offsets, nb::handle context_lens, nb::handle pages, int64_t page_size, float eps, nb::handle query, nb::handle gate) {
    const Cache<void, float> cache(arrays, page_size);
    const int64_t kv_heads = cache.kv_heads, d = cache.head_dim;
    const Floats qg(query_gate, "query_gate"), k(key, "key"), v(value, "value"), qn(q_norm, "q_norm"), kn(k_norm, "k_norm");
    const Floats freq(frequencies, "frequencies");
    qg.shaped(-1, -1);
    const int64_t rows = qg.dim(0);
    if (d == 0 || qg.dim(1) % (2 * d)) refuse("query_gate has " + std::to_string(qg.dim(1)) + " columns, no multiple of 2 * head_dim");
    const int64_t heads = qg.dim(1) / (2 * d);
    k.shaped(rows, kv_heads * d);
    v.shaped(rows, kv_heads * d);
    qn.shaped(d);
    kn.shaped(d);
    freq.shaped(-1);
    if (2 * freq.size() > d) refuse("rotary_dim is greater than head_dim");
    const Ints positions(rotary_positions, "rotary_positions");
    const int64_t kinds = positions.dims() == 1 ? 1 : positions.dim(0);
    if (positions.dims() == 1)
        positions.shaped(rows);
    else
        positions.shaped(3, rows);
    const Ints axis(axes, "axes");
    axis.shaped(freq.size());
    check_indices(axis.data(), axis.size(), "axes", kinds);
    const Ints bounds(offsets, "offsets"), lens(context_lens, "context_lens"), table(pages, "pages");
    const Pages batch(bounds, lens, table, rows, cache.pages, page_size);
    const Output q_out(query, "query"), g_out(gate, "gate");
    q_out.shaped(rows, heads, d);
    g_out.shaped(rows, heads * d);
    const AttentionInputs args{qg.data(), k.data(), v.data(), qn.data(), kn.data(), freq.data(), cache.type, cache.keys,
                               cache.values, cache.key_scales, cache.value_scales, positions.data(), axis.data(), nullptr,
                               q_out.data(), g_out.data(), page_size, rows, heads, kv_heads, d, 2 * freq.size(), eps};
    runtime.operate(4 * qg.size(), [args, batch](Pool& pool, const Kernels& kernels) {
        batch.check();
        const std::vector<int32_t> cache_rows = batch.cache_rows();
        AttentionInputs located = args;
        located.cache_rows = cache_rows.data();
        kernels.attention_inputs(pool, located);
    });
}

void attention(Runtime& runtime, nb::handle query, const nb::tuple& arrays, nb::handle offsets, nb::handle context_lens,
               nb::handle pages, int64_t page_size, bool fast, nb::handle out) {
    const Cache<const void, const float> cache(arrays, page_size);
    const int64_t kv_heads = cache.kv_heads, d = cache.head_dim;
    const Floats q(query, "query");
    q.shaped(-1, -1, d);
    const int64_t rows = q.dim(0), heads = q.dim(1);
    if (kv_heads == 0 || heads % kv_heads)
        refuse(std::to_string(heads) + " heads are no multiple of " + std::to_string(kv_heads) + " kv heads");
    const Ints bounds(offsets, "offsets"), lens(context_lens, "context_lens"), table(pages, "pages");
    const Pages batch(bounds, lens, table, rows, cache.pages, page_size);
    const Output y(out, "out");
    y.shaped(rows, heads * d);
    const CausalAttention args{q.data(), cache.type, cache.keys, cache.values, cache.key_scales, cache.value_scales, batch.offsets, batch.context_lens, batch.pages, y.data(),
                               batch.sequences, batch.table_width, page_size, heads, kv_heads, d, fast};
    runtime.operate(long_cost, [args, batch](Pool& pool, const Kernels& kernels) {
        batch.check();
        kernels.attention(pool, args);
    });
}

void attention_views(Runtime& runtime, nb::handle query, nb::handle key, nb::handle value, nb::handle offsets, int64_t heads, bool fast,
                     bool bytes, nb::handle out) {
    const Floats q(query, "query"), k(key, "key"), v(value, "value");
    q.shaped(-1, -1);
    const int64_t rows = q.dim(0), width = q.dim(1);
    if (heads < 1 || width % heads)
        refuse("query has " + std::to_string(width) + " columns, no multiple of " + std::to_string(heads) + " heads");
    k.shaped(rows, width);
    v.shaped(rows, width);
    const Ints bounds(offsets, "lengths");
    bounds.shaped(-1);
    const Output y(out, "out");
    y.shaped(rows, width);
    const ViewAttention args{q.data(), k.data(), v.data(), bounds.data(), y.data(), bounds.size() - 1, heads, width / heads, fast, bytes};
    runtime.operate(rows * width * 64, [args, rows](Pool& pool, const Kernels& kernels) {
        check_offsets(args.offsets, args.views + 1, rows);
        kernels.attention_views(pool, args);
    });
}

void conv_silu(Runtime& runtime, nb::handle x, nb::handle weight, nb::handle state, nb::handle offsets, nb::handle context_lens,
               nb::handle read_slots, nb::handle write_slots, nb::handle out) {
    const Floats in(x, "x"), w(weight, "weight");
    in.shaped(-1, -1);
    const int64_t rows = in.dim(0), channels = in.dim(1);
    w.shaped(-1, channels);
    const int64_t taps = w.dim(0);
    if (taps < 1 || taps > max_taps) refuse("weight must have 1 to " + std::to_string(max_taps) + " taps, not " + std::to_string(taps));
    const Output window(state, "state");
    window.shaped(-1, taps - 1, channels);
    const Ints bounds(offsets, "offsets"), lens(context_lens, "context_lens");
    const Ints read(read_slots, "read_slots"), write(write_slots, "write_slots");
    const Slots batch(bounds, lens, read, write, rows, window.dim(0));
    const Output y(out, "out");
    y.shaped(rows, channels);
    const ConvSilu args{in.data(), w.data(), window.data(), batch.offsets, batch.context_lens, batch.read, batch.write, y.data(),
                        batch.sequences, channels, taps};
    runtime.operate(4 * y.size(), [args, batch](Pool& pool, const Kernels& kernels) {
        batch.check();
        kernels.conv_silu(pool, args);
    });
}

void gated_delta_rule(Runtime& runtime, nb::handle mixed, nb::handle b, nb::handle a, nb::handle a_log, nb::handle dt_bias,
                      nb::handle state, nb::handle offsets, nb::handle context_lens, nb::handle read_slots, nb::handle write_slots,
                      int64_t key_heads, int64_t value_heads, int64_t key_dim, int64_t value_dim, nb::handle out) {
    if (key_heads < 1 || value_heads < 1 || key_dim < 1 || value_dim < 1 || value_heads % key_heads)
        refuse("value_heads must be a multiple of key_heads, and all sizes positive");
    const Floats in(mixed, "mixed"), gate_b(b, "b"), gate_a(a, "a"), log(a_log, "a_log"), bias(dt_bias, "dt_bias");
    in.shaped(-1, 2 * key_heads * key_dim + value_heads * value_dim);
    const int64_t rows = in.dim(0);
    gate_b.shaped(rows, value_heads);
    gate_a.shaped(rows, value_heads);
    log.shaped(value_heads);
    bias.shaped(value_heads);
    const Output memory(state, "state");
    memory.shaped(-1, value_heads, key_dim, value_dim);
    const Ints bounds(offsets, "offsets"), lens(context_lens, "context_lens");
    const Ints read(read_slots, "read_slots"), write(write_slots, "write_slots");
    const Slots batch(bounds, lens, read, write, rows, memory.dim(0));
    const Output y(out, "out");
    y.shaped(rows, value_heads * value_dim);
    const DeltaRule args{in.data(), gate_b.data(), gate_a.data(), log.data(), bias.data(), memory.data(), batch.offsets,
                         batch.context_lens, batch.read, batch.write, y.data(), batch.sequences, key_heads, value_heads, key_dim, value_dim};
    runtime.operate(3 * rows * value_heads * key_dim * value_dim, [args, batch](Pool& pool, const Kernels& kernels) {
        batch.check();
        kernels.gated_delta_rule(pool, args);
    });
}

}  // namespace

void bind_sequence(nb::class_<Runtime>& runtime) {
    runtime.def("attention_inputs", &attention_inputs)
        .def("attention", &attention)
        .def("attention_views", &attention_views)
        .def("conv_silu", &conv_silu)
        .def("gated_delta_rule", &gated_delta_rule);
}

}  // namespace pocketvlm
