// Cases of quantized matrices: products with matrices of every kind, and quantization.
#include <cmath>
#include <cstdio>
#include <iterator>
#include <tuple>

#include "kit.h"

namespace pocketvlm::test {
namespace {

int64_t whole(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

enum class Codebook { none, full, narrow, wide };

struct Kind {
    const char* name;
    int bits;
    int64_t group;
    Codebook codebook = Codebook::none;
    NumberType scale = NumberType::float16, bias = NumberType::none;
    bool zero_points = false;
    int32_t zero = 0;
    bool permuted = false;
};

// Numbers of groups of one type, random.
struct Numbers {
    Numbers(Random& random, NumberType type, int64_t tiles, int64_t groups)
        : half(type == NumberType::float16 ? tiles * groups * tile_outputs : 0),
          single(type == NumberType::float32 ? tiles * groups * tile_outputs : 0),
          byte(type == NumberType::int8 ? tiles * groups * tile_outputs : 0),
          factor(type == NumberType::int8 ? tiles * ((groups + 1) / 2) * tile_outputs : 0) {
        for (int64_t i = 0; i < half.size(); ++i) half[i] = float16(random);
        for (int64_t i = 0; i < single.size(); ++i) single[i] = random.normal();
        for (int64_t i = 0; i < byte.size(); ++i) byte[i] = static_cast<int8_t>(random.bits());
        for (int64_t i = 0; i < factor.size(); ++i) factor[i] = float16(random);
        numbers.type = type;
        if (type == NumberType::float16) numbers.values = half.data();
        if (type == NumberType::float32) numbers.values = single.data();
        if (type == NumberType::int8) numbers.values = byte.data(), numbers.factor = factor.data(), numbers.shift = 1;
    }

    // A float16 between -1 and 1, sometimes subnormal.
    static uint16_t float16(Random& random) {
        const auto bits = random.bits();
        const uint64_t exponent = bits % 16 == 0 ? 0 : 9 + (bits >> 8) % 6;
        return static_cast<uint16_t>((bits >> 16 & 0x8000u) | exponent << 10 | (bits >> 32 & 0x3ffu));
    }

    Array<uint16_t> half;
    Floats single;
    Array<int8_t> byte;
    Array<uint16_t> factor;
    GroupNumbers numbers;
};

// A matrix of one kind: random bits will do.
struct Matrix {
    Matrix(Random& random, const Kind& kind, int64_t inputs_, int64_t outputs_)
        : inputs(inputs_),
          outputs(outputs_),
          tiles(whole(outputs, tile_outputs) / tile_outputs),
          depth(whole(inputs, kind.group ? kind.group : 16)),
          groups(kind.group ? depth / kind.group : 0),
          bytes(tiles * depth * kind.bits / 32 * line_bytes),
          codebook(16),
          codebook_low(16),
          scale(random, kind.group ? kind.scale : NumberType::none, tiles, groups),
          bias(random, kind.bias, tiles, groups),
          zero_points(kind.zero_points ? tiles * groups * tile_outputs : 0),
          permutation(random.permutation(inputs, inputs)),
          row_scale(tiles * tile_outputs) {
        for (int64_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<uint8_t>(random.bits());
        for (int64_t i = 0; i < 16; ++i) codebook[i] = static_cast<uint8_t>(random.bits()), codebook_low[i] = static_cast<uint8_t>(random.bits());
        codebook[3] = codebook_low[4] = 0;
        codebook[12] = codebook_low[13] = 255;
        for (int64_t i = 0; i < zero_points.size(); ++i) zero_points[i] = static_cast<int8_t>(random.bits());
        for (int64_t i = 0; i < row_scale.size(); ++i) row_scale[i] = random.unit() + 0.5f;
        weights = QuantizedWeights{.bits = kind.bits,
                                   .group = kind.group ? kind.group : depth,
                                   .depth = depth,
                                   .packed = bytes.data(),
                                   .group_scale = scale.numbers,
                                   .group_bias = bias.numbers,
                                   .row_scale = row_scale.data(),
                                   .codebook = kind.codebook == Codebook::none ? nullptr : codebook.data(),
                                   .codebook_low = kind.codebook == Codebook::wide ? codebook_low.data() : nullptr,
                                   .zero_points = kind.zero_points ? zero_points.data() : nullptr,
                                   .zero = kind.zero,
                                   .permutation = kind.permuted ? permutation.data() : nullptr};
        if (kind.codebook != Codebook::narrow) return;
        weights.codebook_offset = 40;
        for (int64_t i = 0; i < 16; ++i) {
            weights.offset_codebook[i] = static_cast<uint8_t>(random.bits() % 128);
            codebook[i] = static_cast<uint8_t>(weights.offset_codebook[i] + weights.codebook_offset);
        }
    }

    int64_t inputs, outputs, tiles, depth, groups;
    Array<uint8_t> bytes, codebook, codebook_low;
    Numbers scale, bias;
    Array<int8_t> zero_points;
    Ints permutation;
    Floats row_scale;
    QuantizedWeights weights;
};

using enum NumberType;

constexpr Kind kinds[] = {
    {.name = "4 bit", .bits = 4, .group = 32},
    {.name = "4 bit, bias", .bits = 4, .group = 64, .bias = float16},
    {.name = "4 bit, codebook", .bits = 4, .group = 32, .codebook = Codebook::full},
    {.name = "4 bit, codebook, bias", .bits = 4, .group = 8, .codebook = Codebook::full, .bias = float16},
    {.name = "4 bit, narrow codebook", .bits = 4, .group = 64, .codebook = Codebook::narrow},
    {.name = "4 bit, narrow codebook, bias", .bits = 4, .group = 16, .codebook = Codebook::narrow, .bias = float16},
    {.name = "4 bit, wide codebook", .bits = 4, .group = 64, .codebook = Codebook::wide, .scale = float32},
    {.name = "4 bit, wide codebook, bias", .bits = 4, .group = 16, .codebook = Codebook::wide, .scale = float32, .bias = float32},
    {.name = "4 bit, zero points, permuted", .bits = 4, .group = 128, .zero_points = true, .permuted = true},
    {.name = "4 bit, two levels", .bits = 4, .group = 32, .scale = int8, .bias = int8, .zero = -8},
    {.name = "5 bit", .bits = 5, .group = 32},
    {.name = "5 bit, two levels", .bits = 5, .group = 32, .scale = int8, .bias = int8, .zero = -16},
    {.name = "5 bit, zero points, permuted", .bits = 5, .group = 64, .zero_points = true, .permuted = true},
    {.name = "6 bit", .bits = 6, .group = 48},
    {.name = "6 bit, two levels", .bits = 6, .group = 16, .scale = int8},
    {.name = "6 bit, bias", .bits = 6, .group = 128, .bias = float32, .zero = -32},
    {.name = "8 bit", .bits = 8, .group = 0},
    {.name = "8 bit, groups", .bits = 8, .group = 32},
    {.name = "8 bit, groups, bias", .bits = 8, .group = 24, .bias = float32},
    {.name = "8 bit, two levels, zero points", .bits = 8, .group = 16, .scale = int8, .zero_points = true},
    {.name = "8 bit, permuted", .bits = 8, .group = 0, .permuted = true},
    {.name = "4 bit, groups of two equal parts", .bits = 4, .group = 72, .zero = 3},
    {.name = "8 bit, groups of one part", .bits = 8, .group = 40, .bias = float16},
};

Linear product_of(const Floats& x, const Floats* bias, const Floats* residual, Activation activation, Floats& out, int64_t rows,
                  const Matrix& m) {
    return Linear{x.data(), nullptr, false, bias ? bias->data() : nullptr, residual ? residual->data() : nullptr, activation, out.data(),
                  rows, m.inputs, m.outputs};
}

void product_case(Suite& suite, const Kind& kind, int64_t rows, int64_t inputs, int64_t outputs, bool only_tiles = false) {
    const auto number = static_cast<uint64_t>(rows + inputs * 100 + outputs);
    Random random(number);
    const Matrix matrix(random, kind, inputs, outputs);
    Floats x = random.floats(rows * inputs);
    for (int64_t k = 0; k < inputs && rows > 2; ++k) x[2 * inputs + k] = 0.0f;  // a row without any size
    const Floats bias = random.floats(outputs), residual = random.floats(rows * outputs);
    const auto what = describe(std::string("quantized_linear ") + kind.name, {{"rows", rows}, {"inputs", inputs}, {"outputs", outputs},
                               {"group", kind.group}});
    const Run run = [&](const Kernels& kernels, Pool& pool, Outputs& out) {
        const QuantizedProduct product{product_of(x, rows % 3 ? &bias : nullptr, rows % 4 == 1 ? &residual : nullptr,
                                              static_cast<Activation>(rows % 4), out[0], rows, matrix), &matrix.weights};
        kernels.quantized_linear(pool, &product, 1);
    };
    if (!only_tiles) suite.check(what, 5e-6, {Floats(rows * outputs)}, run);
    suite.check_tiles(what, {Floats(rows * outputs)}, run);
}

// The code of an input, read from a tile of 5- or 6-bit codes as quantized.h describes them.
int code_of(const Matrix& m, int64_t output, int64_t k) {
    const int bits = m.weights.bits, extra = bits - 4;
    const int64_t inputs = bits == 6 ? 16 : 32, lines = bits == 6 ? 3 : 5;
    const uint8_t* unit = m.bytes.data() + (output / 16 * m.depth / inputs + k / inputs) * lines * 64 + output % 16 * 4 + k % 4;
    const int64_t word = k % inputs / 4;
    const int nibble = word % 2 ? unit[word / 2 * 64] >> 4 : unit[word / 2 * 64] & 15;
    int upper = 0;
    for (int bit = 0; bit < extra; ++bit) upper |= (unit[(lines - 1) * 64] >> (4 + extra * word + bit) % 8 & 1) << bit;
    return nibble | upper << 4;
}

// Codes of 5 and 6 bits give the bits that the same codes give as bytes, and rows are looked up equal.
void container_case(Suite& suite, const Kind& kind, int64_t rows, int64_t inputs, int64_t outputs) {
    Random random(static_cast<uint64_t>(rows + inputs));
    const Matrix packed(random, kind, inputs, outputs);
    Kind wider = kind;
    wider.bits = 8;
    Matrix bytes(random, wider, inputs, outputs);
    for (int64_t output = 0; output < packed.tiles * 16; ++output)
        for (int64_t k = 0; k < packed.depth; ++k) {
            const int64_t at = (output / 16 * packed.depth / 4 + k / 4) * 64 + output % 16 * 4 + k % 4;
            bytes.bytes[at] = static_cast<uint8_t>(code_of(packed, output, k) - (1 << (kind.bits - 1)) + 128);
        }
    QuantizedWeights same = packed.weights;
    same.bits = 8, same.packed = bytes.bytes.data();
    const Floats x = random.floats(rows * inputs);
    const auto what = describe(std::string("as bytes: ") + kind.name, {{"rows", rows}, {"inputs", inputs}, {"outputs", outputs}});
    suite.each(what, [&](const Kernels& kernels, Pool& pool) -> std::string {
        Floats found(rows * outputs), expected(rows * outputs), row(inputs), expected_row(inputs);
        const QuantizedProduct narrow{product_of(x, nullptr, nullptr, Activation::none, found, rows, packed), &packed.weights};
        const QuantizedProduct wide{product_of(x, nullptr, nullptr, Activation::none, expected, rows, packed), &same};
        kernels.quantized_linear(pool, &narrow, 1);
        kernels.quantized_linear(pool, &wide, 1);
        if (std::memcmp(found.data(), expected.data(), static_cast<size_t>(rows * outputs) * sizeof(float))) return "other products";
        for (int32_t id = 0; id < outputs; ++id) {
            dequantize_rows(pool, packed.weights, &id, 1, inputs, row.data());
            dequantize_rows(pool, same, &id, 1, inputs, expected_row.data());
            if (std::memcmp(row.data(), expected_row.data(), static_cast<size_t>(inputs) * sizeof(float))) return "other rows";
        }
        return "";
    });
}

// Matrices of several kinds and sizes with the same rows in one call.
void several_case(Suite& suite, int64_t rows) {
    const int64_t inputs = 96;
    Random random(static_cast<uint64_t>(rows));
    const Kind grouped{.name = "", .bits = 4, .group = 32}, rows_of_bytes{.name = "", .bits = 8, .group = 0};
    const Matrix a(random, grouped, inputs, 50), b(random, grouped, inputs, 19), c(random, rows_of_bytes, inputs, 33);
    const Floats x = random.floats(rows * inputs);
    const auto what = describe("quantized_linear, three products", {{"rows", rows}, {"inputs", inputs}});
    const Outputs start{Floats(rows * 50), Floats(rows * 19), Floats(rows * 33)};
    const Run run = [&](const Kernels& kernels, Pool& pool, Outputs& out) {
        const QuantizedProduct products[] = {{product_of(x, nullptr, nullptr, Activation::none, out[0], rows, a), &a.weights},
                                         {product_of(x, nullptr, nullptr, Activation::none, out[1], rows, b), &b.weights},
                                         {product_of(x, nullptr, nullptr, Activation::none, out[2], rows, c), &c.weights}};
        kernels.quantized_linear(pool, products, 3);
    };
    suite.check(what, 5e-6, start, run);
    suite.check_tiles(what, start, run);
}

// Matrices with the same permutation, in one array or in two, and with another one.
void permuted_case(Suite& suite, int64_t rows) {
    const int64_t inputs = 200, outputs = 19;
    Random random(static_cast<uint64_t>(rows));
    const Kind kind{.name = "", .bits = 4, .group = 32, .zero_points = true, .permuted = true};
    const Matrix a(random, kind, inputs, outputs), b(random, kind, inputs, outputs);
    const Ints copy = a.permutation;
    QuantizedWeights equal = b.weights, same = b.weights;
    equal.permutation = copy.data(), same.permutation = a.permutation.data();
    const QuantizedWeights* weights[] = {&a.weights, &same, &equal, &b.weights};
    const Floats x = random.floats(rows * inputs);
    const Outputs start(4, Floats(rows * outputs));
    const Run run = [&](const Kernels& kernels, Pool& pool, Outputs& out) {
        QuantizedProduct products[4];
        for (size_t i = 0; i < 4; ++i) products[i] = {product_of(x, nullptr, nullptr, Activation::none, out[i], rows, b), weights[i]};
        kernels.quantized_linear(pool, products, 4);
    };
    const auto what = describe("quantized_linear, permuted", {{"rows", rows}});
    suite.check(what, 5e-6, start, run);
    suite.check_tiles(what, start, run);
}

std::string first_difference(const char* name, const Floats& actual, const Floats& expected) {
    if (actual.overrun()) return std::string(name) + ": wrote in front of an output";
    for (int64_t i = 0; i < expected.size(); ++i)
        if (std::memcmp(&actual[i], &expected[i], sizeof(float))) {
            char text[120];
            std::snprintf(text, sizeof text, "%s: %.9g instead of %.9g at %lld", name, static_cast<double>(actual[i]),
                          static_cast<double>(expected[i]), static_cast<long long>(i));
            return text;
        }
    return "";
}

// Matrices of several kinds that share the bytes of their activations, in one call: the bits of single calls.
void shared_bytes_case(Suite& suite, int64_t rows) {
    const int64_t inputs = 200, outputs = 21;
    Random random(static_cast<uint64_t>(rows) + 7);
    const Kind narrow{.name = "", .bits = 4, .group = 64, .codebook = Codebook::narrow}, full{.name = "", .bits = 4, .group = 64, .codebook = Codebook::full};
    const Kind plain{.name = "", .bits = 4, .group = 64}, bytes{.name = "", .bits = 8, .group = 64, .bias = float16};
    const Matrix matrices[] = {{random, narrow, inputs, outputs}, {random, bytes, inputs, outputs}, {random, full, inputs, outputs},
                               {random, plain, inputs, outputs}, {random, narrow, inputs, outputs}};
    constexpr size_t count = std::size(matrices);
    const Floats x = random.floats(rows * inputs);
    suite.each(describe("quantized_linear, shared activations", {{"rows", rows}}), [&](const Kernels& kernels, Pool& pool) -> std::string {
        Outputs together(count, Floats(rows * outputs)), alone(together);
        QuantizedProduct products[count];
        for (size_t i = 0; i < count; ++i) {
            products[i] = {product_of(x, nullptr, nullptr, Activation::none, alone[i], rows, matrices[i]), &matrices[i].weights};
            kernels.quantized_linear(pool, &products[i], 1);
            products[i].args.out = together[i].data();
        }
        kernels.quantized_linear(pool, products, count);
        for (size_t i = 0; i < count; ++i)
            if (std::string wrong = first_difference("product", together[i], alone[i]); !wrong.empty()) return wrong;
        return "";
    });
}

// Random low-rank updates of two products: some rows of the first have one, the others another, and all rows of the second.
struct Updates {
    Updates(Random& random, int64_t rows, int64_t inputs, int64_t outputs)
        : floats(random.floats(whole(inputs, low_rank_block) * 5 + whole(outputs, low_rank_block) * 5, 0.3f)), bits(floats.size()), order(rows) {
        for (int64_t i = 0; i < floats.size(); ++i) {
            uint32_t word;
            std::memcpy(&word, &floats[i], 4);
            bits[i] = static_cast<uint16_t>(word >> 16);
        }
        int64_t n = 0;
        for (int64_t r = 0; r < rows; ++r)
            if (r % 3 != 1) order[n++] = static_cast<int32_t>(r);
        const int64_t chosen = n;
        for (int64_t r = 1; r < rows; r += 3) order[n++] = static_cast<int32_t>(r);
        list = {LowRank{.rows = order.data(), .a = nullptr, .b = nullptr, .out = nullptr, .count = chosen, .outputs = outputs, .rank = 5, .scale = 0.5f},
                LowRank{.rows = order.data() + chosen, .a = nullptr, .b = nullptr, .out = nullptr, .count = rows - chosen, .outputs = outputs, .rank = 2, .scale = 2.0f},
                LowRank{.rows = nullptr, .a = nullptr, .b = nullptr, .out = nullptr, .count = rows, .outputs = outputs, .rank = 4, .scale = 1.0f}};
        split = whole(inputs, low_rank_block) * 5;
    }

    // The updates with factors of a type, of products with these outputs.
    std::vector<LowRank> of(bool bf16, float* first, float* second) {
        std::vector<LowRank> made = list;
        for (size_t i = 0; i < made.size(); ++i) {
            made[i].a = bf16 ? static_cast<const void*>(bits.data()) : floats.data();
            made[i].b = bf16 ? static_cast<const void*>(bits.data() + split) : floats.data() + split;
            made[i].out = i < 2 ? first : second;
        }
        return made;
    }

    Floats floats;
    Array<uint16_t> bits;
    Ints order;
    std::vector<LowRank> list;
    int64_t split;
};

// An operation on the rows inside the product: the bits of the operation and then the product. gates: SwiGLU of two products.
// updated: with low-rank updates, whose bits are those of updates of the finished products.
void row_operation_case(Suite& suite, RowOperationKind operation, const Kind& kind, int64_t rows, int64_t inputs, int64_t width,
                        bool gates, bool updated = false) {
    using enum RowOperationKind;
    const int64_t outputs = 50;
    Random random(static_cast<uint64_t>(rows * 1000 + inputs));
    const Matrix first(random, kind, inputs, outputs), second(random, kind, inputs, outputs);
    Floats x = random.floats(rows * inputs);
    for (int64_t k = 0; k < inputs && rows > 2; ++k) x[2 * inputs + k] = 0.0f;
    const Floats other = random.floats(rows * inputs, 3.0f), weight = random.floats(inputs), bias = random.floats(inputs);
    const Floats residual = random.floats(rows * outputs);
    Updates updates(random, rows, inputs, outputs);
    const bool bf16 = rows % 2;
    const RowOperation fused{.kind = operation, .other = other.data(), .weight = weight.data(), .bias = bias.data(), .width = width, .eps = 1e-5f};
    const auto what = describe(std::string("quantized_linear ") + kind.name, {{"operation", static_cast<int64_t>(operation)}, {"rows", rows},
                               {"inputs", inputs}, {"width", width}, {"gates", gates}, {"updated", updated}});
    suite.each(what, [&](const Kernels& kernels, Pool& pool) -> std::string {
        Floats normed(rows * inputs), gate(rows * outputs), up(rows * outputs), expected(rows * outputs), actual(rows * outputs);
        const float* in = operation == none ? x.data() : normed.data();
        if (operation == rms_norm) kernels.rms_norm(pool, RmsNorm{x.data(), weight.data(), normed.data(), rows, inputs, 1e-5f});
        if (operation == layer_norm)
            kernels.layer_norm(pool, LayerNorm{x.data(), weight.data(), bias.data(), normed.data(), rows, inputs, 1e-5f});
        if (operation == gated_rms_norm)
            kernels.gated_rms_norm(pool, GatedRmsNorm{x.data(), other.data(), weight.data(), normed.data(), rows * (inputs / width), width, 1e-5f});
        if (operation == sigmoid_gate) kernels.sigmoid_gate(pool, Pointwise{other.data(), x.data(), normed.data(), rows * inputs});
        const Floats* added = gates ? nullptr : &residual;
        const auto product = [&](const Matrix& m, const float* from, Floats& out) {
            QuantizedProduct made{product_of(x, nullptr, added, Activation::none, out, rows, m), &m.weights};
            made.args.x = from;
            return made;
        };
        QuantizedProduct separate[] = {product(first, in, gates ? gate : expected), product(second, in, up)};
        kernels.quantized_linear(pool, separate, gates ? 2 : 1);
        std::vector<LowRank> list = updates.of(bf16, separate[0].args.out, up.data());
        if (!gates) list.pop_back();
        if (updated) kernels.add_low_rank(pool, LowRanks{in, list.data(), static_cast<int64_t>(list.size()), inputs, bf16});
        if (gates) kernels.swiglu(pool, Pointwise{gate.data(), up.data(), expected.data(), rows * outputs});
        QuantizedProduct together[] = {product(first, x.data(), actual), product(second, x.data(), actual)};
        together[0].operation = fused, together[0].gates = gates;
        for (int64_t i = 0; updated && i < 2; ++i) {
            together[i].updates = list.data() + 2 * i, together[i].update_count = i ? 1 : 2;
            together[i].bf16_updates = bf16;
        }
        kernels.quantized_linear(pool, together, gates ? 2 : 1);
        return first_difference("product", actual, expected);
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
        Array<uint8_t> bytes(tiles * depth * bits / 32 * line_bytes);
        Array<uint16_t> scale(group ? tiles * depth / group * tile_outputs : 0);
        Floats row_scale(padded), out(padded * depth);
        static const uint8_t codebook[16] = {60, 75, 86, 95, 103, 110, 117, 123, 129, 135, 142, 149, 157, 166, 176, 187};
        GroupNumbers scales;
        if (group) scales = {.type = NumberType::float16, .values = scale.data()};
        const QuantizedWeights to{.bits = bits,
                                  .group = group ? group : depth,
                                  .depth = depth,
                                  .packed = bytes.data(),
                                  .group_scale = scales,
                                  .group_bias = {},
                                  .row_scale = row_scale.data(),
                                  .codebook = bits == 4 ? codebook : nullptr};
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
        // Blocks of rows, tails of a product of tiles, several ranges of rows, several tasks of columns.
        for (int64_t rows = 14; rows <= 50; ++rows) product_case(suite, kind, rows, 210, 49, true);
        for (const auto& [rows, inputs, outputs] : {std::tuple<int64_t, int64_t, int64_t>{16, 64, 16}, {17, 5, 1}, {33, 72, 31}, {48, 48, 32},
                                                    {64, 96, 640}, {300, 4304, 17}, {301, 16, 48}})
            product_case(suite, kind, rows, inputs, outputs, true);
    }
    for (const Kind& kind : kinds)
        if (kind.bits == 5 || kind.bits == 6)
            for (const int64_t rows : {1, 2, 3, 4, 6, 8, 12, 25}) container_case(suite, kind, rows, 200, 35);
    for (const int64_t rows : {1, 4, 25}) several_case(suite, rows);
    for (const int64_t rows : {1, 5, 60}) permuted_case(suite, rows);
    for (const int64_t rows : {1, 5, 12, 31}) shared_bytes_case(suite, rows);
    constexpr Kind row_kinds[] = {{.name = "4 bit", .bits = 4, .group = 24}, {.name = "4 bit", .bits = 4, .group = 64, .codebook = Codebook::narrow},
                                  {.name = "8 bit", .bits = 8, .group = 0}, {.name = "8 bit", .bits = 8, .group = 32, .bias = float16}};
    for (const Kind& kind : row_kinds)
        for (const int64_t rows : {1, 2, 7, 12, 41})
            for (const auto& [inputs, width] : {std::pair<int64_t, int64_t>{5, 5}, {120, 40}, {700, 100}})
                for (int operation = 0; operation <= static_cast<int>(RowOperationKind::sigmoid_gate); ++operation)
                    for (const bool gates : {false, true}) {
                        const auto chosen = static_cast<RowOperationKind>(operation);
                        if (chosen != RowOperationKind::none || gates) row_operation_case(suite, chosen, kind, rows, inputs, width, gates);
                        row_operation_case(suite, chosen, kind, rows, inputs, width, gates, true);
                    }
    for (const bool bf16 : {true, false})
        for (const auto& [inputs, outputs] : {std::pair<int64_t, int64_t>{64, 16}, {5, 1}, {333, 33}}) {
            quantize_case(suite, 8, 0, inputs, outputs, bf16);
            quantize_case(suite, 8, 32, inputs, outputs, bf16);
            quantize_case(suite, 4, 64, inputs, outputs, bf16);
        }
}

}  // namespace pocketvlm::test
