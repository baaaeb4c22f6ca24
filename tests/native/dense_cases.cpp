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

// Rows that are bfloat16 numbers already: what `fast` may round stays as it is, and only the order of the sums differs.
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

void low_rank_case(Suite& suite, int64_t count, int64_t inputs, int64_t outputs, int64_t rank) {
    Random random(static_cast<uint64_t>(inputs * 100 + rank));
    const int64_t height = count + 3;
    const Floats x = random.floats(height * inputs), a = random.floats(rank * inputs), b = random.floats(rank * outputs);
    const Floats out = random.floats(height * outputs);
    const Ints rows = random.permutation(count, height);
    const auto what = describe("add_low_rank", {{"rows", count}, {"inputs", inputs}, {"outputs", outputs}, {"rank", rank}});
    suite.check(what, 3e-6, {out}, [&](const Kernels& kernels, Pool& pool, Outputs& o) {
        kernels.add_low_rank(pool, LowRank{x.data(), rows.data(), a.data(), b.data(), o[0].data(), count, inputs, outputs, rank, 0.5f});
    });
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
        low_rank_case(suite, 1, 33, 70, rank);
        low_rank_case(suite, 9, 7, 5, rank);
        low_rank_case(suite, 0, 16, 16, rank);
    }
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
