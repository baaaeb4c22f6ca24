// Bindings of matrices of codes.
#include "bindings/arrays.h"
#include "bindings/runtime.h"
#include "coded/coded.h"

#include <algorithm>
#include <array>
#include <optional>

namespace pocketvlm {
namespace {

using Bytes = Array<const uint8_t>;
using Halves = Array<const uint16_t>;

// group 0: 8-bit codes with a scale a row alone.
Codes shape_of(int bits, long group, long inputs, long outputs) {
    if (bits != 4 && bits != 8) refuse("codes have 4 or 8 bits, not " + std::to_string(bits));
    if (inputs < 1 || outputs < 1) refuse("a matrix of codes has at least one row and one column");
    if (!(bits == 8 && group == 0) && (group < 8 || group % 8))
        refuse("groups have a multiple of 8 inputs, not " + std::to_string(group));
    const long unit = group ? group : 16;
    Codes c{};
    c.bits = bits;
    c.depth = (inputs + unit - 1) / unit * unit;
    c.group = group ? group : c.depth;
    return c;
}

// Give codes their table.
void set_table(Codes& c, const uint8_t* table) {
    uint8_t least = 255, most = 0;
    for (int i = 0; i < 16; ++i) least = std::min(least, table[i]), most = std::max(most, table[i]);
    c.table = table;
    if (most - least > 127) return;
    c.least = least;
    for (int i = 0; i < 16; ++i) c.raised[i] = static_cast<uint8_t>(table[i] - least);
}

long panels_of(long outputs) { return (outputs + code_panel - 1) / code_panel; }

// A packed matrix. It keeps the arrays which it was made from.
class CodedMatrix {
  public:
    CodedMatrix(int bits, long group, long inputs, long outputs, nb::handle codes, nb::handle group_scale, nb::handle group_minimum,
                nb::handle row_scale, nb::handle table)
        : codes_(shape_of(bits, group, inputs, outputs)),
          inputs_(inputs),
          outputs_(outputs),
          bytes_(codes, "codes"),
          row_scale_(row_scale, "row_scale") {
        const long panels = panels_of(outputs);
        bytes_.shaped(panels, codes_.steps(), code_block);
        row_scale_.shaped(panels * code_panel);
        codes_.codes = bytes_.data();
        codes_.row_scale = row_scale_.data();
        if (!table.is_none()) {
            if (bits == 8) refuse("8-bit codes have no table");
            table_.emplace(table, "table").shaped(16);
            set_table(codes_, table_->data());
        }
        if (!group) {
            if (!group_scale.is_none() || !group_minimum.is_none()) refuse("codes without groups have a scale a row and nothing else");
            return;
        }
        group_scale_.emplace(group_scale, "group_scale").shaped(panels, codes_.groups(), code_panel);
        codes_.group_scale = group_scale_->data();
        if (!group_minimum.is_none()) {
            group_minimum_.emplace(group_minimum, "group_minimum").shaped(panels, codes_.groups(), code_panel);
            codes_.group_minimum = group_minimum_->data();
        }
    }

    const Codes& codes() const { return codes_; }
    long inputs() const { return inputs_; }
    long outputs() const { return outputs_; }

  private:
    Codes codes_;
    long inputs_, outputs_;
    Bytes bytes_;
    Floats row_scale_;
    std::optional<Halves> group_scale_, group_minimum_;
    std::optional<Bytes> table_;
};

// Products of the rows x with several matrices at once. Lists `biases` and `residuals` may be shorter: the rest have none.
void coded_linear(Runtime& runtime, nb::handle x, nb::list weights, nb::list biases, nb::list residuals, nb::list outs, int activation) {
    constexpr size_t most = most_products;
    const size_t count = weights.size();
    if (count < 1 || count > most || outs.size() != count) refuse("1 to 8 weights and as many outs");
    const Floats in(x, "x");
    std::optional<Floats> bias[most], residual[most];
    std::optional<Output> out[most];
    std::array<CodedProduct, most> products;
    long cost = 0;
    for (size_t i = 0; i < count; ++i) {
        const CodedMatrix& weight = nb::cast<const CodedMatrix&>(weights[i]);
        in.shaped(-1, weight.inputs());
        const long rows = in.dim(0), outputs = weight.outputs();
        if (i < biases.size() && !biases[i].is_none()) bias[i].emplace(biases[i], "bias").shaped(outputs);
        if (i < residuals.size() && !residuals[i].is_none()) residual[i].emplace(residuals[i], "residual").shaped(rows, outputs);
        out[i].emplace(outs[i], "out").shaped(rows, outputs);
        products[i] = CodedProduct{Linear{in.data(), nullptr, false, bias[i] ? bias[i]->data() : nullptr,
                                          residual[i] ? residual[i]->data() : nullptr, static_cast<Activation>(activation),
                                          out[i]->data(), rows, weight.inputs(), outputs},
                                   &weight.codes()};
        cost += rows * weight.inputs() * outputs;
    }
    const Codes& first = *products[0].codes;
    runtime.operate(
        cost, [products, count](Pool& pool, const Kernels& kernels) { kernels.coded_linear(pool, products.data(), static_cast<long>(count)); },
        Reads{first.codes, panels_of(products[0].args.outputs) * first.steps() * code_block});
}

void coded_embed(Runtime& runtime, const CodedMatrix& table, nb::handle ids, nb::handle out) {
    const Ints rows(ids, "ids");
    rows.shaped(-1);
    const Output y(out, "out");
    y.shaped(rows.size(), table.inputs());
    runtime.run(4 * y.size(), [&](Pool& pool, const Kernels&) {
        check_indices(rows.data(), rows.size(), "ids", table.outputs());
        decode_rows(pool, table.codes(), rows.data(), rows.size(), table.inputs(), y.data());
    });
}

// Round-to-nearest codes of a matrix, into arrays of the shapes that CodedMatrix wants.
void encode(Runtime& runtime, nb::handle weight, bool bf16, int bits, long group, nb::handle codes, nb::handle group_scale,
            nb::handle row_scale, nb::handle table) {
    std::optional<Halves> half;
    std::optional<Floats> single;
    if (bf16)
        half.emplace(weight, "weight").shaped(-1, -1);
    else
        single.emplace(weight, "weight").shaped(-1, -1);
    const long outputs = half ? half->dim(0) : single->dim(0), inputs = half ? half->dim(1) : single->dim(1);
    Encode e{half ? static_cast<const void*>(half->data()) : single->data(), bf16, inputs, outputs, shape_of(bits, group, inputs, outputs)};
    const long panels = panels_of(outputs);
    const Array<uint8_t> bytes(codes, "codes");
    bytes.shaped(panels, e.codes.steps(), code_block);
    const Output scales(row_scale, "row_scale");
    scales.shaped(panels * code_panel);
    std::optional<Array<uint16_t>> groups;
    if (group) groups.emplace(group_scale, "group_scale").shaped(panels, e.codes.groups(), code_panel);
    std::optional<Bytes> values;
    if (bits == 4) {
        values.emplace(table, "table").shaped(16);
        for (int i = 1; i < 16; ++i)
            if (values->data()[i] <= values->data()[i - 1]) refuse("the values of a table must rise");
        set_table(e.codes, values->data());
    }
    e.codes.codes = bytes.data();
    e.codes.row_scale = scales.data();
    e.codes.group_scale = groups ? groups->data() : nullptr;
    runtime.run(8 * inputs * outputs, [&](Pool& pool, const Kernels& kernels) { kernels.encode(pool, e); });
}

}  // namespace

void bind_coded(nb::module_& module, nb::class_<Runtime>& runtime) {
    nb::class_<CodedMatrix>(module, "CodedMatrix")
        .def(nb::init<int, long, long, long, nb::handle, nb::handle, nb::handle, nb::handle, nb::handle>(), nb::arg("bits"),
             nb::arg("group"), nb::arg("inputs"), nb::arg("outputs"), nb::arg("codes"), nb::arg("group_scale").none(),
             nb::arg("group_minimum").none(), nb::arg("row_scale"), nb::arg("table").none())
        .def_prop_ro("inputs", &CodedMatrix::inputs)
        .def_prop_ro("outputs", &CodedMatrix::outputs);
    runtime
        .def("coded_linear", &coded_linear, nb::arg("x"), nb::arg("weights"), nb::arg("biases"), nb::arg("residuals"), nb::arg("outs"),
             nb::arg("activation"))
        .def("coded_embed", &coded_embed)
        .def("encode", &encode, nb::arg("weight"), nb::arg("bf16"), nb::arg("bits"), nb::arg("group"), nb::arg("codes"),
             nb::arg("group_scale").none(), nb::arg("row_scale"), nb::arg("table").none());
}

}  // namespace pocketvlm
