// Bindings of matrices of codes.
#include "bindings/arrays.h"
#include "bindings/runtime.h"
#include "coded/coded.h"

#include <optional>

namespace pocketvlm {
namespace {

using Bytes = Array<const uint8_t>;
using Halves = Array<const uint16_t>;

Codes shape_of(int bits, long group, long inputs, long outputs) {
    if (bits != 4 && bits != 8) refuse("codes have 4 or 8 bits, not " + std::to_string(bits));
    if (inputs < 1 || outputs < 1) refuse("a matrix of codes has at least one row and one column");
    if (bits == 4 && (group < 32 || group % 32)) refuse("groups have a multiple of 32 inputs, not " + std::to_string(group));
    const long unit = bits == 4 ? group : 64;
    Codes c{};
    c.bits = bits;
    c.depth = (inputs + unit - 1) / unit * unit;
    c.group = bits == 4 ? group : c.depth;
    return c;
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
        if (bits == 8) {
            if (!group_scale.is_none() || !group_minimum.is_none() || !table.is_none()) refuse("8-bit codes have a scale a row and nothing else");
            return;
        }
        group_scale_.emplace(group_scale, "group_scale").shaped(panels, codes_.groups(), code_panel);
        codes_.group_scale = group_scale_->data();
        if (!group_minimum.is_none()) {
            group_minimum_.emplace(group_minimum, "group_minimum").shaped(panels, codes_.groups(), code_panel);
            codes_.group_minimum = group_minimum_->data();
        }
        if (!table.is_none()) {
            table_.emplace(table, "table").shaped(16);
            codes_.table = table_->data();
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

void coded_linear(Runtime& runtime, nb::handle x, const CodedMatrix& weight, nb::handle bias, nb::handle residual, int activation,
                  nb::handle out) {
    const Floats in(x, "x");
    in.shaped(-1, weight.inputs());
    const long rows = in.dim(0), outputs = weight.outputs();
    std::optional<Floats> b, r;
    if (!bias.is_none()) b.emplace(bias, "bias").shaped(outputs);
    if (!residual.is_none()) r.emplace(residual, "residual").shaped(rows, outputs);
    const Output y(out, "out");
    y.shaped(rows, outputs);
    const Linear args{in.data(), nullptr, false, b ? b->data() : nullptr, r ? r->data() : nullptr, static_cast<Activation>(activation),
                      y.data(), rows, weight.inputs(), outputs};
    runtime.run(rows * weight.inputs() * outputs, [&](Pool& pool, const Kernels& kernels) { kernels.coded_linear(pool, args, weight.codes()); });
}

void coded_embed(Runtime& runtime, const CodedMatrix& table, nb::handle ids, nb::handle out) {
    const Ints rows(ids, "ids");
    rows.shaped(-1);
    check_indices(rows, "ids", table.outputs());
    const Output y(out, "out");
    y.shaped(rows.size(), table.inputs());
    runtime.run(4 * y.size(), [&](Pool& pool, const Kernels&) {
        decode_rows(pool, table.codes(), rows.data(), rows.size(), table.inputs(), y.data());
    });
}

// Round-to-nearest codes of a matrix, into arrays of the shapes that CodedMatrix wants.
void encode(Runtime& runtime, nb::handle weight, bool bf16, int bits, long group, nb::handle codes, nb::handle group_scale,
            nb::handle row_scale) {
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
    if (bits == 4) groups.emplace(group_scale, "group_scale").shaped(panels, e.codes.groups(), code_panel);
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
        .def("coded_linear", &coded_linear, nb::arg("x"), nb::arg("weight"), nb::arg("bias").none(), nb::arg("residual").none(),
             nb::arg("activation"), nb::arg("out"))
        .def("coded_embed", &coded_embed)
        .def("encode", &encode, nb::arg("weight"), nb::arg("bf16"), nb::arg("bits"), nb::arg("group"), nb::arg("codes"),
             nb::arg("group_scale").none(), nb::arg("row_scale"));
}

}  // namespace pocketvlm
