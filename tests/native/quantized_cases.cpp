// Cases of quantized matrices: products with matrices of every kind, and quantization.
#include <cmath>
#include <cstdio>

#include "kit.h"

namespace pocketvlm::test {
namespace {

int64_t whole(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

// A matrix of one kind, made of random bits.
struct Matrix {
    Matrix(Random& random, int bits, int64_t group, int64_t inputs_, int64_t outputs_, bool with_codebook, bool with_bias,
           bool offset_codebook = false)
        : inputs(inputs_),
          outputs(outputs_),
          tiles(whole(outputs, tile_outputs) / tile_outputs),
          depth(whole(inputs, group ? group : 16)),
          bytes(tiles * depth * bits / 32 * step_bytes),
          codebook(16),
          scale(group ? tiles * depth / group * tile_outputs : 0),
          bias(scale.size()),
          row_scale(tiles * tile_outputs) {
        for (int64_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<uint8_t>(random.bits());
        for (int64_t i = 0; i < 16; ++i) codebook[i] = static_cast<uint8_t>(random.bits());
        codebook[3] = 0;
        codebook[12] = 255;
        for (int64_t i = 0; i < scale.size(); ++i) scale[i] = half(random), bias[i] = half(random);
        for (int64_t i = 0; i < row_scale.size(); ++i) row_scale[i] = random.unit() + 0.5f;
        weights = QuantizedWeights{.bits = bits,
                                   .group = group ? group : depth,
                                   .depth = depth,
                                   .packed = bytes.data(),
                                   .group_scale = group ? scale.data() : nullptr,
                                   .group_bias = with_bias ? bias.data() : nullptr,
                                   .row_scale = row_scale.data(),
                                   .codebook = with_codebook ? codebook.data() : nullptr};
        if (!offset_codebook) return;
        weights.codebook_offset = 40;
        for (int64_t i = 0; i < 16; ++i) {
            weights.offset_codebook[i] = static_cast<uint8_t>(random.bits() % 128);
            codebook[i] = static_cast<uint8_t>(weights.offset_codebook[i] + weights.codebook_offset);
        }
    }

    // A float16 between -1 and 1, sometimes subnormal.
    static uint16_t half(Random& random) {
        const auto bits = random.bits();
        const uint64_t exponent = bits % 16 == 0 ? 0 : 9 + (bits >> 8) % 6;
        return static_cast<uint16_t>((bits >> 16 & 0x8000u) | exponent << 10 | (bits >> 32 & 0x3ffu));
    }

    int64_t inputs, outputs, tiles, depth;
    Array<uint8_t> bytes, codebook;
    Array<uint16_t> scale, bias;
    Floats row_scale;
    QuantizedWeights weights;
};

struct Kind {
    const char* name;
    int bits;
    int64_t group;
    bool codebook, bias, offset_codebook = false;
};

constexpr Kind kinds[] = {
    {"4 bit", 4, 32, false, false},        {"4 bit, bias", 4, 64, false, true}, {"4 bit, codebook", 4, 32, true, false},
    {"4 bit, codebook, bias", 4, 8, true, true}, {"8 bit", 8, 0, false, false},    {"8 bit, groups", 8, 32, false, false},
    {"8 bit, groups, bias", 8, 24, false, true}, {"4 bit, narrow codebook", 4, 64, true, false, true},
    {"4 bit, narrow codebook, bias", 4, 16, true, true, true},
};

Linear product_of(const Floats& x, const Floats* bias, const Floats* residual, Activation activation, Floats& out, int64_t rows,
                  const Matrix& m) {
    return Linear{x.data(), nullptr, false, bias ? bias->data() : nullptr, residual ? residual->data() : nullptr, activation, out.data(),
                  rows, m.inputs, m.outputs};
}

void product_case(Suite& suite, const Kind& kind, int64_t rows, int64_t inputs, int64_t outputs) {
    const auto number = static_cast<uint64_t>(rows + inputs * 100 + outputs);
    Random random(number);
    const Matrix matrix(random, kind.bits, kind.group, inputs, outputs, kind.codebook, kind.bias, kind.offset_codebook);
    Floats x = random.floats(rows * inputs);
    for (int64_t k = 0; k < inputs && rows > 2; ++k) x[2 * inputs + k] = 0.0f;  // a row without any size
    const Floats bias = random.floats(outputs), residual = random.floats(rows * outputs);
    const auto what = describe(std::string("quantized_linear ") + kind.name, {{"rows", rows}, {"inputs", inputs}, {"outputs", outputs},
                               {"group", kind.group}});
    suite.check(what, 5e-6, {Floats(rows * outputs)}, [&](const Kernels& kernels, Pool& pool, Outputs& out) {
        const QuantizedProduct product{product_of(x, rows % 3 ? &bias : nullptr, rows % 4 == 1 ? &residual : nullptr,
                                              static_cast<Activation>(rows % 4), out[0], rows, matrix), &matrix.weights};
        kernels.quantized_linear(pool, &product, 1);
    });
}

// Matrices of several kinds and sizes with the same rows in one call.
void several_case(Suite& suite, int64_t rows) {
    const int64_t inputs = 96;
    Random random(static_cast<uint64_t>(rows));
    const Matrix a(random, 4, 32, inputs, 50, false, false), b(random, 4, 32, inputs, 19, false, false), c(random, 8, 0, inputs, 33, false, false);
    const Floats x = random.floats(rows * inputs);
    const auto what = describe("quantized_linear, three products", {{"rows", rows}, {"inputs", inputs}});
    suite.check(what, 5e-6, {Floats(rows * 50), Floats(rows * 19), Floats(rows * 33)}, [&](const Kernels& kernels, Pool& pool, Outputs& out) {
        const QuantizedProduct products[] = {{product_of(x, nullptr, nullptr, Activation::none, out[0], rows, a), &a.weights},
                                         {product_of(x, nullptr, nullptr, Activation::none, out[1], rows, b), &b.weights},
                                         {product_of(x, nullptr, nullptr, Activation::none, out[2], rows, c), &c.weights}};
        kernels.quantized_linear(pool, products, 3);
    });
}

// Codes need not be equal, because a weight between two codes may be rounded to either; the error must be as small.
void quantize_case(Suite& suite, int bits, int64_t group, int64_t inputs, int64_t outputs, bool bf16) {
    Random random(static_cast<uint64_t>(inputs + outputs + bits));
    Floats weight = random.floats(outputs * inputs, 0.1f);
    Array<uint16_t> half(outputs * inputs);
    for (int64_t i = 0; i < weight.size(); ++i) {
        uint32_t word;
        std::memcpy(&word, &weight[i], 4);
        half[i] = static_cast<uint16_t>(word >> 16);
        if (bf16) word &= 0xffff0000u, std::memcpy(&weight[i], &word, 4);
    }
    const int64_t tiles = whole(outputs, tile_outputs) / tile_outputs, depth = whole(inputs, group ? group : 16);
    const int64_t padded = tiles * tile_outputs;
    const auto values = [&](const Kernels& kernels, Pool& pool) {
        Array<uint8_t> bytes(tiles * depth * bits / 32 * step_bytes);
        Array<uint16_t> scale(group ? tiles * depth / group * tile_outputs : 0);
        Floats row_scale(padded), out(padded * depth);
        static const uint8_t codebook[16] = {60, 75, 86, 95, 103, 110, 117, 123, 129, 135, 142, 149, 157, 166, 176, 187};
        const QuantizedWeights to{bits,    group ? group : depth, depth, bytes.data(), group ? scale.data() : nullptr,
                          nullptr, row_scale.data(),      bits == 4 ? codebook : nullptr};
        kernels.quantize(pool, Quantize{bf16 ? static_cast<const void*>(half.data()) : weight.data(), bf16, inputs, outputs, to});
        Ints rows(padded);
        for (int64_t i = 0; i < padded; ++i) rows[i] = static_cast<int32_t>(i);
        dequantize_rows(pool, to, rows.data(), padded, depth, out.data());
        return out;
    };
    const auto error = [&](const Floats& decoded) {
        double sum = 0.0;
        for (int64_t i = 0; i < padded; ++i)
            for (int64_t k = 0; k < depth; ++k) {
                const double truth = i < outputs && k < inputs ? static_cast<double>(weight[i * inputs + k]) : 0.0;
                const double d = static_cast<double>(decoded[i * depth + k]) - truth;
                sum += i < outputs && k < inputs ? d * d : i < outputs || d == 0.0 ? 0.0 : INFINITY;  // padded outputs are exactly zero
            }
        return std::sqrt(sum / static_cast<double>(weight.size())) / 0.1;
    };
    const auto what = describe(bf16 ? "quantize bf16" : "quantize f32", {{"bits", bits}, {"group", group}, {"inputs", inputs},
                               {"outputs", outputs}});
    Pool one(1);
    const double plain = error(values(plain_kernels(), one)), limit = bits == 8 ? 0.01 : 0.12;
    suite.each(what, [&](const Kernels& kernels, Pool& pool) -> std::string {
        const double own = error(values(kernels, pool));
        if (own <= plain * 1.001 && own <= limit) return "";
        char text[100];
        std::snprintf(text, sizeof text, "error %.5g, plain %.5g, limit %.2g", own, plain, limit);
        return text;
    });
}

}  // namespace

void quantized_cases(Suite& suite) {
    for (const Kind& kind : kinds) {
        for (int64_t rows = 1; rows <= 30; ++rows) product_case(suite, kind, rows, 72, 33);
        for (const int64_t rows : {1, 3, 6, 13, 30}) {
            product_case(suite, kind, rows, 64, 16);
            product_case(suite, kind, rows, 5, 1);
            product_case(suite, kind, rows, 333, 50);
        }
    }
    for (const int64_t rows : {1, 4, 25}) several_case(suite, rows);
    for (const bool bf16 : {true, false})
        for (const auto& [inputs, outputs] : {std::pair<int64_t, int64_t>{64, 16}, {5, 1}, {333, 33}}) {
            quantize_case(suite, 8, 0, inputs, outputs, bf16);
            quantize_case(suite, 8, 32, inputs, outputs, bf16);
            quantize_case(suite, 4, 64, inputs, outputs, bf16);
        }
}

}  // namespace pocketvlm::test
