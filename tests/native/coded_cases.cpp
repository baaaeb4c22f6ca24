// Cases of matrices of codes: products of every kind of code, and how codes are made.
#include <cmath>
#include <cstdio>

#include "kit.h"

namespace pocketvlm::test {
namespace {

long whole(long n, long unit) { return (n + unit - 1) / unit * unit; }

// Codes of one kind: random bits are as good as any.
struct Matrix {
    Matrix(Random& random, int bits, long group, long inputs_, long outputs_, bool with_table, bool with_minimum,
           bool raised = false)
        : inputs(inputs_),
          outputs(outputs_),
          panels(whole(outputs, code_panel) / code_panel),
          depth(whole(inputs, group ? group : 16)),
          bytes(panels * depth * bits / 32 * code_block),
          table(16),
          scale(group ? panels * depth / group * code_panel : 0),
          minimum(scale.size()),
          row_scale(panels * code_panel) {
        for (long i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<uint8_t>(random.bits());
        for (long i = 0; i < 16; ++i) table[i] = static_cast<uint8_t>(random.bits());
        table[3] = 0;
        table[12] = 255;
        for (long i = 0; i < scale.size(); ++i) scale[i] = half(random), minimum[i] = half(random);
        for (long i = 0; i < row_scale.size(); ++i) row_scale[i] = random.unit() + 0.5f;
        codes = Codes{bits, group ? group : depth, depth, bytes.data(), group ? scale.data() : nullptr,
                      with_minimum ? minimum.data() : nullptr, row_scale.data(), with_table ? table.data() : nullptr};
        if (!raised) return;
        codes.least = 40;
        for (long i = 0; i < 16; ++i) codes.raised[i] = static_cast<uint8_t>(random.bits() % 128), table[i] = static_cast<uint8_t>(codes.raised[i] + 40);
    }

    // A float16 between -1 and 1, sometimes subnormal.
    static uint16_t half(Random& random) {
        const auto bits = random.bits();
        const uint64_t exponent = bits % 16 == 0 ? 0 : 9 + (bits >> 8) % 6;
        return static_cast<uint16_t>((bits >> 16 & 0x8000u) | exponent << 10 | (bits >> 32 & 0x3ffu));
    }

    long inputs, outputs, panels, depth;
    Array<uint8_t> bytes, table;
    Array<uint16_t> scale, minimum;
    Floats row_scale;
    Codes codes;
};

struct Kind {
    const char* name;
    int bits;
    long group;
    bool table, minimum, raised = false;
};

constexpr Kind kinds[] = {
    {"4 bit", 4, 32, false, false},        {"4 bit, minimum", 4, 64, false, true}, {"4 bit, table", 4, 32, true, false},
    {"4 bit, table, minimum", 4, 8, true, true}, {"8 bit", 8, 0, false, false},    {"8 bit, groups", 8, 32, false, false},
    {"8 bit, groups, minimum", 8, 24, false, true}, {"4 bit, narrow table", 4, 64, true, false, true},
    {"4 bit, narrow table, minimum", 4, 16, true, true, true},
};

Linear product_of(const Floats& x, const Floats* bias, const Floats* residual, Activation activation, Floats& out, long rows, const Matrix& m) {
    return Linear{x.data(), nullptr, false, bias ? bias->data() : nullptr, residual ? residual->data() : nullptr, activation, out.data(),
                  rows, m.inputs, m.outputs};
}

void product_case(Suite& suite, const Kind& kind, long rows, long inputs, long outputs) {
    const auto number = static_cast<uint64_t>(rows + inputs * 100 + outputs);
    Random random(number);
    const Matrix matrix(random, kind.bits, kind.group, inputs, outputs, kind.table, kind.minimum, kind.raised);
    Floats x = random.floats(rows * inputs);
    for (long k = 0; k < inputs && rows > 2; ++k) x[2 * inputs + k] = 0.0f;  // a row without any size
    const Floats bias = random.floats(outputs), residual = random.floats(rows * outputs);
    const auto what = describe(std::string("coded_linear ") + kind.name, {{"rows", rows}, {"inputs", inputs}, {"outputs", outputs}, {"group", kind.group}});
    suite.check(what, 5e-6, {Floats(rows * outputs)}, [&](const Kernels& kernels, Pool& pool, Outputs& out) {
        const CodedProduct product{product_of(x, rows % 3 ? &bias : nullptr, rows % 4 == 1 ? &residual : nullptr,
                                              static_cast<Activation>(rows % 4), out[0], rows, matrix), &matrix.codes};
        kernels.coded_linear(pool, &product, 1);
    });
}

// Matrices of several kinds and sizes with the same rows in one call.
void several_case(Suite& suite, long rows) {
    const long inputs = 96;
    Random random(static_cast<uint64_t>(rows));
    const Matrix a(random, 4, 32, inputs, 50, false, false), b(random, 4, 32, inputs, 19, false, false), c(random, 8, 0, inputs, 33, false, false);
    const Floats x = random.floats(rows * inputs);
    const auto what = describe("coded_linear, three products", {{"rows", rows}, {"inputs", inputs}});
    suite.check(what, 5e-6, {Floats(rows * 50), Floats(rows * 19), Floats(rows * 33)}, [&](const Kernels& kernels, Pool& pool, Outputs& out) {
        const CodedProduct products[] = {{product_of(x, nullptr, nullptr, Activation::none, out[0], rows, a), &a.codes},
                                         {product_of(x, nullptr, nullptr, Activation::none, out[1], rows, b), &b.codes},
                                         {product_of(x, nullptr, nullptr, Activation::none, out[2], rows, c), &c.codes}};
        kernels.coded_linear(pool, products, 3);
    });
}

// Codes need not be equal, as a weight between two of them may be rounded to either; they must be as good.
void encode_case(Suite& suite, int bits, long group, long inputs, long outputs, bool bf16) {
    Random random(static_cast<uint64_t>(inputs + outputs + bits));
    Floats weight = random.floats(outputs * inputs, 0.1f);
    Array<uint16_t> half(outputs * inputs);
    for (long i = 0; i < weight.size(); ++i) {
        uint32_t word;
        std::memcpy(&word, &weight[i], 4);
        half[i] = static_cast<uint16_t>(word >> 16);
        if (bf16) word &= 0xffff0000u, std::memcpy(&weight[i], &word, 4);
    }
    const long panels = whole(outputs, code_panel) / code_panel, depth = whole(inputs, group ? group : 16), padded = panels * code_panel;
    const auto values = [&](const Kernels& kernels, Pool& pool) {
        Array<uint8_t> bytes(panels * depth * bits / 32 * code_block);
        Array<uint16_t> scale(group ? panels * depth / group * code_panel : 0);
        Floats row_scale(padded), out(padded * depth);
        static const uint8_t table[16] = {60, 75, 86, 95, 103, 110, 117, 123, 129, 135, 142, 149, 157, 166, 176, 187};
        const Codes codes{bits,    group ? group : depth, depth, bytes.data(), group ? scale.data() : nullptr,
                          nullptr, row_scale.data(),      bits == 4 ? table : nullptr};
        kernels.encode(pool, Encode{bf16 ? static_cast<const void*>(half.data()) : weight.data(), bf16, inputs, outputs, codes});
        Ints rows(padded);
        for (long i = 0; i < padded; ++i) rows[i] = static_cast<int32_t>(i);
        decode_rows(pool, codes, rows.data(), padded, depth, out.data());
        return out;
    };
    const auto error = [&](const Floats& decoded) {
        double sum = 0.0;
        for (long i = 0; i < padded; ++i)
            for (long k = 0; k < depth; ++k) {
                const double truth = i < outputs && k < inputs ? static_cast<double>(weight[i * inputs + k]) : 0.0;
                const double d = static_cast<double>(decoded[i * depth + k]) - truth;
                sum += i < outputs && k < inputs ? d * d : i < outputs || d == 0.0 ? 0.0 : INFINITY;  // padded outputs are exactly zero
            }
        return std::sqrt(sum / static_cast<double>(weight.size())) / 0.1;
    };
    const auto what = describe(bf16 ? "encode bf16" : "encode f32", {{"bits", bits}, {"group", group}, {"inputs", inputs}, {"outputs", outputs}});
    Pool one(1);
    const double plain = error(values(kernels_of(Isa::serial), one)), most = bits == 8 ? 0.01 : 0.12;
    suite.each(what, [&](Isa isa, Pool& pool) -> std::string {
        const double own = error(values(kernels_of(isa), pool));
        if (own <= plain * 1.001 && own <= most) return "";
        char text[100];
        std::snprintf(text, sizeof text, "error %.5g, plain %.5g, most %.2g", own, plain, most);
        return text;
    });
}

}  // namespace

void coded_cases(Suite& suite) {
    for (const Kind& kind : kinds) {
        for (long rows = 1; rows <= 30; ++rows) product_case(suite, kind, rows, 72, 33);
        for (const long rows : {1, 3, 6, 13, 30}) {
            product_case(suite, kind, rows, 64, 16);
            product_case(suite, kind, rows, 5, 1);
            product_case(suite, kind, rows, 333, 50);
        }
    }
    for (const long rows : {1, 4, 25}) several_case(suite, rows);
    for (const bool bf16 : {true, false})
        for (const auto& [inputs, outputs] : {std::pair<long, long>{64, 16}, {5, 1}, {333, 33}}) {
            encode_case(suite, 8, 0, inputs, outputs, bf16);
            encode_case(suite, 8, 32, inputs, outputs, bf16);
            encode_case(suite, 4, 64, inputs, outputs, bf16);
        }
}

}  // namespace pocketvlm::test
