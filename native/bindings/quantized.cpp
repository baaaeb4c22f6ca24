// Bindings of quantized matrices.
#include "bindings/arrays.h"
#include "bindings/low_rank.h"
#include "bindings/runtime.h"
#include "quantized/quantized.h"

#include <algorithm>
#include <array>
#include <optional>

namespace pocketvlm {
namespace {

using Bytes = Array<const uint8_t>;
using Float16s = Array<const uint16_t>;
using Int8s = Array<const int8_t>;

// Sizes of a quantized matrix. Group 0: 8-bit codes with one scale for each row.
QuantizedWeights shape_of(int bits, int64_t group, int64_t inputs, int64_t outputs) {
    if (bits != 4 && bits != 5 && bits != 6 && bits != 8) refuse("codes have 4, 5, 6 or 8 bits, not " + std::to_string(bits));
    if (inputs < 1 || outputs < 1) refuse("a quantized matrix has at least one row and one column");
    const int64_t multiple = std::max<int64_t>(8, unit_inputs(bits));
    if (!(bits == 8 && group == 0) && (group < multiple || group % multiple))
        refuse("groups have a multiple of " + std::to_string(multiple) + " inputs, not " + std::to_string(group));
    const int64_t unit = group ? group : 16;
    QuantizedWeights w{};
    w.bits = bits;
    w.depth = (inputs + unit - 1) / unit * unit;
    w.group = group ? group : w.depth;
    return w;
}

void set_codebook(QuantizedWeights& w, const uint8_t* codebook) {
    uint8_t minimum = 255, maximum = 0;
    for (int i = 0; i < 16; ++i) minimum = std::min(minimum, codebook[i]), maximum = std::max(maximum, codebook[i]);
    w.codebook = codebook;
    if (maximum - minimum > 127) return;
    w.codebook_offset = minimum;
    for (int i = 0; i < 16; ++i) w.offset_codebook[i] = static_cast<uint8_t>(codebook[i] - minimum);
}

int64_t tiles_of(int64_t outputs) { return (outputs + tile_outputs - 1) / tile_outputs; }

// The numbers of groups [tiles, groups, 16] in float16, float32 or int8; int8 ones need factors in float16.
class GroupArrays {
  public:
    GroupArrays(nb::handle values, nb::handle factor, int64_t span, int64_t tiles, int64_t groups, const char* name) {
        if (values.is_none()) {
            if (!factor.is_none()) refuse(std::string(name) + " has a factor but no values");
            return;
        }
        const std::string dtype = nb::str(nb::getattr(values, "dtype", nb::none())).c_str();
        if (dtype == "float32")
            set(NumberType::float32, single_.emplace(values, name), tiles, groups);
        else if (dtype == "int8")
            set(NumberType::int8, byte_.emplace(values, name), tiles, groups);
        else
            set(NumberType::float16, half_.emplace(values, name), tiles, groups);
        if (factor.is_none() != !byte_) refuse(std::string(name) + " has a factor with values in int8, and only then");
        if (!byte_) return;
        if (span < 1 || (span & (span - 1))) refuse("span is a power of two, not " + std::to_string(span));
        while (int64_t{1} << numbers_.shift < span) ++numbers_.shift;
        numbers_.factor = factor_.emplace(factor, "factor").shaped(tiles, numbers_.factors(groups), tile_outputs).data();
    }

    const GroupNumbers& numbers() const { return numbers_; }

  private:
    template <class T>
    void set(NumberType type, const Array<const T>& array, int64_t tiles, int64_t groups) {
        numbers_.type = type;
        numbers_.values = array.shaped(tiles, groups, tile_outputs).data();
    }

    GroupNumbers numbers_;
    std::optional<Float16s> half_, factor_;
    std::optional<Floats> single_;
    std::optional<Int8s> byte_;
};

// A packed matrix. It holds references to its arrays.
class PackedMatrix {
  public:
    PackedMatrix(int bits, int64_t group, int64_t inputs, int64_t outputs, nb::handle codes, nb::handle group_scale, nb::handle group_bias,
                 nb::handle row_scale, nb::handle codebook, nb::handle scale_factor, nb::handle bias_factor, int64_t span,
                 nb::handle zero_points, int zero, nb::handle permutation)
        : weights_(shape_of(bits, group, inputs, outputs)),
          inputs_(inputs),
          outputs_(outputs),
          packed_(codes, "codes"),
          row_scale_(row_scale, "row_scale") {
        const int64_t tiles = tiles_of(outputs);
        packed_.shaped(tiles, weights_.lines(), line_bytes);
        row_scale_.shaped(tiles * tile_outputs);
        weights_.packed = packed_.data();
        weights_.row_scale = row_scale_.data();
        if (!codebook.is_none()) {
            if (bits != 4) refuse(std::to_string(bits) + "-bit codes have no codebook");
            codebook_.emplace(codebook, "codebook");
            const bool wide = codebook_->dims() == 2;
            wide ? codebook_->shaped(2, 16) : codebook_->shaped(16);
            set_codebook(weights_, codebook_->data());
            if (wide) weights_.codebook_low = codebook_->data() + 16;
        }
        if (!permutation.is_none()) {
            permutation_.emplace(permutation, "permutation").shaped(inputs);
            check_indices(permutation_->data(), inputs, "permutation", inputs);
            weights_.permutation = permutation_->data();
        }
        if (!group) {
            if (!group_scale.is_none() || !group_bias.is_none() || !zero_points.is_none() || zero)
                refuse("codes without groups have one scale for each row and nothing else");
            return;
        }
        if (group_scale.is_none()) refuse("groups need a group_scale");
        const int64_t groups = weights_.groups();
        weights_.group_scale = group_scale_.emplace(group_scale, scale_factor, span, tiles, groups, "group_scale").numbers();
        weights_.group_bias = group_bias_.emplace(group_bias, bias_factor, span, tiles, groups, "group_bias").numbers();
        if (!zero_points.is_none()) {
            if (zero) refuse("zero points are those of groups or one for all, not both");
            weights_.zero_points = zero_points_.emplace(zero_points, "zero_points").shaped(tiles, groups, tile_outputs).data();
        }
        weights_.zero = zero;
    }

    const QuantizedWeights& weights() const { return weights_; }
    int64_t inputs() const { return inputs_; }
    int64_t outputs() const { return outputs_; }

  private:
    QuantizedWeights weights_;
    int64_t inputs_, outputs_;
    Bytes packed_;
    Floats row_scale_;
    std::optional<GroupArrays> group_scale_, group_bias_;
    std::optional<Int8s> zero_points_;
    std::optional<Ints> permutation_;
    std::optional<Bytes> codebook_;
};

// The arrays of an operation on the rows of a product's input, checked.
class RowArrays {
  public:
    RowArrays(int kind, nb::handle other, nb::handle weight, nb::handle bias, float eps, int64_t rows, int64_t inputs) {
        if (kind < 0 || kind > static_cast<int>(RowOperationKind::sigmoid_gate))
            refuse("there is no operation on rows with number " + std::to_string(kind));
        using enum RowOperationKind;
        operation_.kind = static_cast<RowOperationKind>(kind);
        operation_.eps = eps;
        const bool gated = operation_.kind == gated_rms_norm;
        if (gated || operation_.kind == sigmoid_gate) operation_.other = other_.emplace(other, "other").shaped(rows, inputs).data();
        if (gated || operation_.kind == rms_norm || operation_.kind == layer_norm) {
            weight_.emplace(weight, "norm_weight").shaped(gated ? -1 : inputs);
            operation_.weight = weight_->data();
            operation_.width = weight_->size();
            if (operation_.width < 1 || inputs % operation_.width)
                refuse("norm_weight has " + std::to_string(operation_.width) + " numbers, which do not divide a row of " + std::to_string(inputs));
        }
        if (operation_.kind == layer_norm) operation_.bias = bias_.emplace(bias, "norm_bias").shaped(inputs).data();
    }

    const RowOperation& operation() const { return operation_; }

  private:
    RowOperation operation_;
    std::optional<Floats> other_, weight_, bias_;
};

// Products of the rows x with several matrices at once. Lists `biases` and `residuals` may be shorter: the other products have none.
// operation: done with the rows before the products. gates: two matrices and one out, silu of the first product times the second.
// updates: a list of low-rank updates (rows, a, b, scale) for each product, or shorter.
void quantized_linear(Runtime& runtime, nb::handle x, nb::list weights, nb::list biases, nb::list residuals, nb::list outs, int activation,
                      int operation, nb::handle other, nb::handle norm_weight, nb::handle norm_bias, float eps, bool gates, nb::list updates,
                      bool bf16_updates) {
    constexpr size_t maximum = max_products;
    const size_t count = weights.size();
    if (gates && (count != 2 || outs.size() != 1 || biases.size() || residuals.size() || activation))
        refuse("gates take two weights and one out, without biases, residuals and activation");
    if (updates.size() > count || (updates.size() && activation)) refuse("updates are of these weights, and exclude an activation");
    if (count < 1 || count > maximum || (!gates && outs.size() != count)) refuse("1 to 8 weights and as many outs");
    const Floats in(x, "x");
    std::optional<Floats> bias[maximum], residual[maximum];
    std::optional<Output> out[maximum];
    std::array<QuantizedProduct, maximum> products;
    std::vector<LowRank> low_ranks;
    int64_t cost = 0;
    for (size_t i = 0; i < count; ++i) {
        const PackedMatrix& weight = nb::cast<const PackedMatrix&>(weights[i]);
        in.shaped(-1, weight.inputs());
        const int64_t rows = in.dim(0), outputs = weight.outputs();
        if (i < biases.size() && !biases[i].is_none()) bias[i].emplace(biases[i], "bias").shaped(outputs);
        if (i < residuals.size() && !residuals[i].is_none()) residual[i].emplace(residuals[i], "residual").shaped(rows, outputs);
        out[i].emplace(outs[gates ? 0 : i], "out").shaped(rows, outputs);
        products[i] = QuantizedProduct{.args = Linear{in.data(), nullptr, false, bias[i] ? bias[i]->data() : nullptr,
                                                      residual[i] ? residual[i]->data() : nullptr, static_cast<Activation>(activation),
                                                      out[i]->data(), rows, weight.inputs(), outputs},
                                       .weights = &weight.weights()};
        products[i].bf16_updates = bf16_updates;
        cost += rows * weight.inputs() * outputs;
        if (i >= updates.size()) continue;
        for (nb::handle update : nb::cast<nb::list>(updates[i])) {
            const nb::tuple fields = nb::cast<nb::tuple>(update);
            if (fields.size() != 4) refuse("an update has rows, a, b and scale");
            low_ranks.push_back(update_of(fields, nullptr, rows, weight.inputs(), outputs, bf16_updates));
            ++products[i].update_count;
        }
    }
    const QuantizedWeights& first = *products[0].weights;
    const RowArrays arrays(operation, other, norm_weight, norm_bias, eps, in.dim(0), products[0].args.inputs);
    products[0].operation = arrays.operation();
    products[0].gates = gates;
    for (size_t i = 0; i < count && (operation || gates); ++i)
        if (!quantized_alike(first, *products[i].weights)) refuse("these weights do not quantize their activations alike");
    Reads reads{first.packed, tiles_of(products[0].args.outputs) * first.lines() * line_bytes};
    if (!low_ranks.empty()) {  // the inner products come first, and an adapter's factors lie one after the other
        reads = Reads{low_ranks[0].a, 0};
        for (const LowRank& u : low_ranks) reads.bytes += u.rank * products[0].args.inputs * (bf16_updates ? 2 : 4);
    }
    runtime.operate(
        cost,
        [products, count, low_ranks](Pool& pool, const Kernels& kernels) {
            check_rows(low_ranks, products[0].args.rows);
            auto updated = products;
            const LowRank* next = low_ranks.data();
            for (size_t i = 0; i < count; next += products[i++].update_count) updated[i].updates = next;
            kernels.quantized_linear(pool, updated.data(), static_cast<int64_t>(count));
        },
        reads);
}

void quantized_embed(Runtime& runtime, const PackedMatrix& matrix, nb::handle ids, nb::handle out) {
    const Ints rows(ids, "ids");
    rows.shaped(-1);
    const Output y(out, "out");
    y.shaped(rows.size(), matrix.inputs());
    runtime.operate(4 * y.size(), [weights = &matrix.weights(), known = matrix.outputs(), width = matrix.inputs(), chosen = rows.data(),
                                   n = rows.size(), to = y.data()](Pool& pool, const Kernels&) {
        check_indices(chosen, n, "ids", known);
        dequantize_rows(pool, *weights, chosen, n, width, to);
    });
}

// Rounds the weights of a matrix to nearest, into arrays of the shapes that PackedMatrix expects.
void quantize(Runtime& runtime, nb::handle weight, bool bf16, int bits, int64_t group, nb::handle codes, nb::handle group_scale,
            nb::handle row_scale, nb::handle codebook) {
    std::optional<Array<const uint16_t>> bfloat16;
    std::optional<Floats> float32;
    if (bf16)
        bfloat16.emplace(weight, "weight").shaped(-1, -1);
    else
        float32.emplace(weight, "weight").shaped(-1, -1);
    if (bits != 4 && bits != 8) refuse("weights are rounded to 4 or 8 bits, not " + std::to_string(bits));
    const int64_t outputs = bfloat16 ? bfloat16->dim(0) : float32->dim(0), inputs = bfloat16 ? bfloat16->dim(1) : float32->dim(1);
    Quantize args{.weight = bfloat16 ? static_cast<const void*>(bfloat16->data()) : float32->data(),
                  .bf16 = bf16,
                  .inputs = inputs,
                  .outputs = outputs,
                  .to = shape_of(bits, group, inputs, outputs)};
    const int64_t tiles = tiles_of(outputs);
    const Array<uint8_t> bytes(codes, "codes");
    bytes.shaped(tiles, args.to.lines(), line_bytes);
    const Output scales(row_scale, "row_scale");
    scales.shaped(tiles * tile_outputs);
    std::optional<Array<uint16_t>> groups;
    if (group) groups.emplace(group_scale, "group_scale").shaped(tiles, args.to.groups(), tile_outputs);
    std::optional<Bytes> values;
    if (bits == 4) {
        values.emplace(codebook, "codebook").shaped(16);
        for (int i = 1; i < 16; ++i)
            if (values->data()[i] <= values->data()[i - 1]) refuse("the values of a codebook must rise");
        set_codebook(args.to, values->data());
    }
    args.to.packed = bytes.data();
    args.to.row_scale = scales.data();
    if (groups) args.to.group_scale = GroupNumbers{.type = NumberType::float16, .values = groups->data()};
    runtime.run(8 * inputs * outputs, [&](Pool& pool, const Kernels& kernels) { kernels.quantize(pool, args); });
}

}  // namespace

void bind_quantized(nb::module_& module, nb::class_<Runtime>& runtime) {
    nb::class_<PackedMatrix>(module, "QuantizedMatrix")
        .def(nb::init<int, int64_t, int64_t, int64_t, nb::handle, nb::handle, nb::handle, nb::handle, nb::handle, nb::handle, nb::handle,
                      int64_t, nb::handle, int, nb::handle>(),
             nb::arg("bits"), nb::arg("group"), nb::arg("inputs"), nb::arg("outputs"), nb::arg("codes"), nb::arg("group_scale").none(),
             nb::arg("group_bias").none(), nb::arg("row_scale"), nb::arg("codebook").none(), nb::arg("scale_factor") = nb::none(),
             nb::arg("bias_factor") = nb::none(), nb::arg("span") = 1, nb::arg("zero_points") = nb::none(), nb::arg("zero") = 0,
             nb::arg("permutation") = nb::none())
        .def_prop_ro("inputs", &PackedMatrix::inputs)
        .def_prop_ro("outputs", &PackedMatrix::outputs)
        .def("quantized_alike", [](const PackedMatrix& a, const PackedMatrix& b) { return quantized_alike(a.weights(), b.weights()); });
    runtime
        .def("quantized_linear", &quantized_linear, nb::arg("x"), nb::arg("weights"), nb::arg("biases"), nb::arg("residuals"), nb::arg("outs"),
             nb::arg("activation"), nb::arg("operation") = 0, nb::arg("other") = nb::none(), nb::arg("norm_weight") = nb::none(),
             nb::arg("norm_bias") = nb::none(), nb::arg("eps") = 0.0f, nb::arg("gates") = false, nb::arg("updates") = nb::list(),
             nb::arg("bf16_updates") = false)
        .def("quantized_embed", &quantized_embed)
        .def("quantize", &quantize, nb::arg("weight"), nb::arg("bf16"), nb::arg("bits"), nb::arg("group"), nb::arg("codes"),
             nb::arg("group_scale").none(), nb::arg("row_scale"), nb::arg("codebook").none());
}

}  // namespace pocketvlm
