// Cases of the kernels that work row by row: products with matrices, norms, activations.
#include <cmath>

#include "kit.h"

namespace pocketvlm::test {
namespace {

Array<uint16_t> rounded_down(const Floats& values) {
    Array<uint16_t> made(values.size());
    for (int64_t i = 0; i < values.size(); ++i) {
        uint32_t bits;
        std::memcpy(&bits, &values[i], 4);
        made[i] = static_cast<uint16_t>(bits >> 16);
    }
    return made;
}

void linear_case(Suite& suite, int64_t number, int64_t rows, int64_t inputs, int64_t outputs, bool bf16) {
    Random random(static_cast<uint64_t>(number) + 100);
    const Floats x = random.floats(rows * inputs), weight = random.floats(outputs * inputs, 1.0f / std::sqrt(static_cast<float>(inputs)));
    const Floats bias = random.floats(outputs), residual = random.floats(rows * outputs);
    const Array<uint16_t> half = rounded_down(weight);
    const auto activation = static_cast<Activation>(number % 4);
    const bool with_bias = number % 3 != 0, with_residual = number % 5 < 2;
    const auto what = describe(bf16 ? "linear bf16" : "linear f32", {{"rows", rows}, {"inputs", inputs}, {"outputs", outputs},
                               {"activation", number % 4}, {"bias", with_bias}, {"residual", with_residual}});
    suite.check(what, 3e-6, {Floats(rows * outputs)}, [&](const Kernels& kernels, Pool& pool, Outputs& out) {
        kernels.linear(pool, Linear{x.data(), bf16 ? static_cast<const void*>(half.data()) : weight.data(), bf16,
                                    with_bias ? bias.data() : nullptr, with_residual ? residual.data() : nullptr, activation,
                                    out[0].data(), rows, inputs, outputs});
    });
}

// Rows that are bfloat16 numbers already, so that `fast` rounds nothing and only the order of the sums differs.
void bf16_case(Suite& suite, int64_t number, int64_t rows, int64_t inputs, int64_t outputs) {
    Random random(static_cast<uint64_t>(number) + 5000);
    const Array<uint16_t> weight = rounded_down(random.floats(outputs * inputs, 1.0f / std::sqrt(static_cast<float>(inputs))));
    const Floats bias = random.floats(outputs), residual = random.floats(rows * outputs);
    Floats x = random.floats(rows * inputs);
    for (int64_t i = 0; i < x.size(); ++i) {
        uint32_t bits;
        std::memcpy(&bits, &x[i], 4);
        bits &= 0xffff0000u;
        std::memcpy(&x[i], &bits, 4);
    }
    const auto activation = static_cast<Activation>(number % 4);
    const bool with_bias = number % 3 != 0, with_residual = number % 5 < 2;
    const auto what = describe("linear fast", {{"rows", rows}, {"inputs", inputs}, {"outputs", outputs}, {"activation", number % 4},
                               {"bias", with_bias}, {"residual", with_residual}});
    suite.check(what, 3e-6, {Floats(rows * outputs)}, [&](const Kernels& kernels, Pool& pool, Outputs& out) {
        kernels.linear(pool, Linear{x.data(), weight.data(), true, with_bias ? bias.data() : nullptr,
                                    with_residual ? residual.data() : nullptr, activation, out[0].data(), rows, inputs, outputs, true});
    });
}

void norm_case(Suite& suite, int64_t rows, int64_t width) {
    Random random(static_cast<uint64_t>(rows * 10000 + width));
    const Floats x = random.floats(rows * width), z = random.floats(rows * width, 3.0f), weight = random.floats(width), bias = random.floats(width);
    const auto check = [&](const char* name, const auto& run) {
        suite.check(describe(name, {{"rows", rows}, {"width", width}}), 3e-6, {Floats(rows * width)}, run);
    };
    check("rms_norm", [&](const Kernels& kernels, Pool& pool, Outputs& out) {
        kernels.rms_norm(pool, RmsNorm{x.data(), weight.data(), out[0].data(), rows, width, 1e-6f});
    });
    check("layer_norm", [&](const Kernels& kernels, Pool& pool, Outputs& out) {
        kernels.layer_norm(pool, LayerNorm{x.data(), weight.data(), bias.data(), out[0].data(), rows, width, 1e-3f});
    });
    check("gated_rms_norm", [&](const Kernels& kernels, Pool& pool, Outputs& out) {
        kernels.gated_rms_norm(pool, GatedRmsNorm{x.data(), z.data(), weight.data(), out[0].data(), rows, width, 1e-6f});
    });
}

void pointwise_case(Suite& suite, const Floats& gate, const char* kind) {
    const int64_t count = gate.size();
    Random random(static_cast<uint64_t>(count));
    const Floats x = random.floats(count);
    const auto run = [&](auto kernel) {
        return [&, kernel](const Kernels& kernels, Pool& pool, Outputs& out) {
            (kernels.*kernel)(pool, Pointwise{gate.data(), x.data(), out[0].data(), count});
        };
    };
    suite.check(describe(std::string("swiglu ") + kind, {{"count", count}}), 2e-6, {Floats(count)}, run(&Kernels::swiglu));
    suite.check(describe(std::string("sigmoid_gate ") + kind, {{"count", count}}), 2e-6, {Floats(count)}, run(&Kernels::sigmoid_gate));
}

void activation_case(Suite& suite, int64_t count, Activation activation) {
    const Floats x = Random(static_cast<uint64_t>(count)).floats(count, 4.0f);
    const auto what = describe("activate", {{"count", count}, {"activation", static_cast<int64_t>(activation)}});
    suite.check(what, 2e-6, {Floats(count)}, [&](const Kernels& kernels, Pool& pool, Outputs& out) {
        kernels.apply_activation(pool, Activate{x.data(), out[0].data(), count, activation});
    });
}

// Numbers in blocks for LowRank: zero after the end, as float32 or as interleaved bfloat16; `plain` are their values in order.
struct Factor {
    Factor(Random& random, int64_t blocks, int64_t lines, int64_t used_of_last, float scale)
        : plain(random.floats(blocks * lines * low_rank_block, scale)), bits(plain.size()) {
        for (int64_t i = 0; i < plain.size(); ++i) {
            const int64_t at = i % low_rank_block, line = i / low_rank_block;
            // a: lines of several blocks each; b: blocks of several lines each: the caller says which block is the last.
            if (line / lines == blocks - 1 && at >= used_of_last) plain[i] = 0;
            uint32_t word;
            std::memcpy(&word, &plain[i], 4);
            word &= 0xffff0000u;
            std::memcpy(&plain[i], &word, 4);
        }
    }
    // Blocks of `plain` in the order of memory: block `from` of the values goes to place `to`.
    void put(int64_t from, int64_t to, Floats& floats) {
        for (int64_t i = 0; i < low_rank_block; ++i) {
            const float value = plain[from * low_rank_block + i];
            floats[to * low_rank_block + i] = value;
            uint32_t word;
            std::memcpy(&word, &value, 4);
            bits[to * low_rank_block + (i < 16 ? 2 * i : 2 * (i - 16) + 1)] = static_cast<uint16_t>(word >> 16);
        }
    }
    Floats plain;
    Array<uint16_t> bits;
};

// Several updates of products of the same rows: `adapters` with rows of their own (or one with all rows), `matrices` each.
void low_rank_case(Suite& suite, int64_t count, int64_t inputs, int64_t outputs, int64_t rank, int64_t adapters, int64_t matrices) {
    Random random(static_cast<uint64_t>(inputs * 100 + rank + count));
    const bool all = adapters == 0;
    const int64_t groups = all ? 1 : adapters, height = all ? count : count * groups + 3;
    const Floats x = random.floats(height * inputs);
    const Ints order = random.permutation(height, height);
    Outputs start;
    for (int64_t m = 0; m < matrices; ++m) start.push_back(random.floats(height * (outputs + m)));
    const auto blocks = [](int64_t n) { return (n + low_rank_block - 1) / low_rank_block; };
    std::vector<std::unique_ptr<Factor>> as, bs;
    std::vector<std::unique_ptr<Floats>> a_floats, b_floats;
    for (int64_t i = 0; i < groups * matrices; ++i) {
        const int64_t width = outputs + i % matrices, ranks = rank + i / matrices, deep = blocks(inputs), wide = blocks(width);
        as.push_back(std::make_unique<Factor>(random, deep, ranks, inputs - (deep - 1) * low_rank_block, 1.0f / std::sqrt(static_cast<float>(inputs))));
        bs.push_back(std::make_unique<Factor>(random, wide, ranks, width - (wide - 1) * low_rank_block, 1.0f));
        a_floats.push_back(std::make_unique<Floats>(as.back()->plain.size()));
        b_floats.push_back(std::make_unique<Floats>(bs.back()->plain.size()));
        for (int64_t k = 0; k < ranks; ++k)
            for (int64_t block = 0; block < deep; ++block) as.back()->put(block * ranks + k, k * deep + block, *a_floats.back());
        for (int64_t block = 0; block < wide * ranks; ++block) bs.back()->put(block, block, *b_floats.back());
    }
    const auto update = [&](int64_t i, bool bf16, Outputs& out) {
        const auto at = static_cast<size_t>(i);
        return LowRank{all ? nullptr : order.data() + i / matrices * count, bf16 ? static_cast<const void*>(as[at]->bits.data()) : a_floats[at]->data(),
                       bf16 ? static_cast<const void*>(bs[at]->bits.data()) : b_floats[at]->data(), out[static_cast<size_t>(i % matrices)].data(),
                       count, outputs + i % matrices, rank + i / matrices, 0.5f};
    };
    Outputs expected = start;  // by the formula, in double
    for (int64_t i = 0; i < groups * matrices; ++i) {
        const LowRank u = update(i, false, expected);
        const int64_t ranks = u.rank;
        const float *a = as[static_cast<size_t>(i)]->plain.data(), *b = bs[static_cast<size_t>(i)]->plain.data();
        for (int64_t r = 0; r < count; ++r) {
            const int64_t row = u.rows ? u.rows[r] : r;
            for (int64_t k = 0; k < ranks; ++k) {
                double inner = 0;
                for (int64_t j = 0; j < inputs; ++j)
                    inner += double(x[row * inputs + j]) * a[(j / low_rank_block * ranks + k) * low_rank_block + j % low_rank_block];
                for (int64_t j = 0; j < u.outputs; ++j)
                    u.out[row * u.outputs + j] += static_cast<float>(0.5 * inner * b[(j / low_rank_block * ranks + k) * low_rank_block + j % low_rank_block]);
            }
        }
    }
    for (const bool bf16 : {false, true}) {
        const auto what = describe(bf16 ? "add_low_rank bf16" : "add_low_rank", {{"rows", count}, {"inputs", inputs}, {"outputs", outputs},
                                   {"rank", rank}, {"adapters", adapters}, {"matrices", matrices}});
        const auto run = [&](const Kernels& kernels, Pool& pool, Outputs& out) {
            std::vector<LowRank> updates;
            for (int64_t i = 0; i < groups * matrices; ++i) updates.push_back(update(i, bf16, out));
            kernels.add_low_rank(pool, LowRanks{x.data(), updates.data(), static_cast<int64_t>(updates.size()), inputs, bf16});
        };
        suite.check(what, 3e-6, start, run);
        Outputs plain = start;
        Pool pool(1);
        run(plain_kernels(), pool, plain);
        for (size_t m = 0; m < plain.size(); ++m) suite.equal(what + " by the formula", plain[m], expected[m], 3e-6);
    }
}

}  // namespace

void dense_cases(Suite& suite) {
    constexpr std::pair<int64_t, int64_t> sizes[] = {{1, 1}, {7, 5}, {16, 16}, {65, 33}, {100, 70}, {257, 19}};
    int64_t number = 0;
    for (const auto& [inputs, outputs] : sizes)
        for (const int64_t rows : {1, 2, 3, 4, 5, 7, 12, 13, 31, 33, 45})
            for (const bool bf16 : {true, false}) linear_case(suite, number++, rows, inputs, outputs, bf16);
    for (const bool bf16 : {true, false}) {  // depth in two blocks; rows in two
        linear_case(suite, number++, 37, 1601, 35, bf16);
        linear_case(suite, number++, 1031, 9, 35, bf16);
    }
    for (const auto& [inputs, outputs] : {std::pair<int64_t, int64_t>{1, 1}, {31, 5}, {32, 16}, {65, 33}, {100, 70}, {257, 19}})
        for (const int64_t rows : {1, 2, 3, 4, 5, 6, 7, 13, 45}) bf16_case(suite, number++, rows, inputs, outputs);
    for (const int64_t rows : {1, 7}) bf16_case(suite, number++, rows, 3001, 170);  // several blocks of weights in a task
    bf16_case(suite, number++, 211, 40, 5);                                       // few outputs: rows in several tasks
    for (const int64_t rank : {1, 5, 16}) {
        low_rank_case(suite, 1, 33, 70, rank, 1, 1);
        low_rank_case(suite, 9, 7, 5, rank, 1, 2);
        low_rank_case(suite, 0, 16, 16, rank, 1, 1);
        low_rank_case(suite, 3, 65, 33, rank, 4, 3);
        low_rank_case(suite, 45, 100, 1030, rank, 0, 1);  // all rows, in several blocks; outputs in several tasks
    }
    low_rank_case(suite, 1, 1600, 31, 70, 2, 4);
    for (const int64_t count : {1, 7, 33, 10001})
        for (const auto activation : {Activation::gelu_tanh, Activation::gelu_erf, Activation::silu}) activation_case(suite, count, activation);
    for (const int64_t width : {1, 3, 8, 17, 64, 129, 1000})
        for (const int64_t rows : {1, 5, 70}) norm_case(suite, rows, width);
    for (const int64_t count : {1, 7, 16, 33, 1000, 40001}) pointwise_case(suite, Random(7).floats(count, 5.0f), "normal");
    constexpr float ends[] = {NAN, INFINITY, -INFINITY, 0.0f, -0.0f, 87.0f, 88.5f, 89.0f, 104.0f, -87.0f, -88.5f, -103.0f, -1e4f, 1e30f, -1e30f, 1e-40f, -1e-20f};
    for (const float end : ends) {  // each alone among normal numbers: one of them must not hide the others
        Floats gate = Random(8).floats(21);
        gate[3] = end;
        gate[20] = end;
        pointwise_case(suite, gate, std::to_string(end).c_str());
    }
}

}  // namespace pocketvlm::test
