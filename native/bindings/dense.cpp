// Bindings of the operations that work row by row. Outputs are allocated by the caller.
#include "bindings/arrays.h"
#include "bindings/low_rank.h"
#include "bindings/runtime.h"
#include "rows/rows.h"

#include <optional>
#include <vector>

namespace pocketvlm {
namespace {

void check_width(const Floats& x) {
    x.shaped(-1, -1);
    if (x.dim(1) == 0) refuse("x has no columns");
}

// A weight matrix: float32, or bfloat16 as its bits.
struct Matrix {
    Matrix(nb::handle object, bool bf16) {
        if (bf16) {
            bfloat16.emplace(object, "weight");
            bfloat16->shaped(-1, -1);
        } else {
            float32.emplace(object, "weight");
            float32->shaped(-1, -1);
        }
    }
    const void* data() const { return bfloat16 ? static_cast<const void*>(bfloat16->data()) : float32->data(); }
    int64_t dim(int i) const { return bfloat16 ? bfloat16->dim(i) : float32->dim(i); }

    std::optional<Array<const uint16_t>> bfloat16;
    std::optional<Floats> float32;
};

void linear(Runtime& runtime, nb::handle x, nb::handle weight, bool bf16, nb::handle bias, nb::handle residual, int activation,
            bool fast, nb::handle out) {
    const Matrix w(weight, bf16);
    const int64_t outputs = w.dim(0), inputs = w.dim(1);
    if (inputs == 0) refuse("weight has no columns");
    const Floats in(x, "x");
    in.shaped(-1, inputs);
    const int64_t rows = in.dim(0);
    std::optional<Floats> b, r;
    if (!bias.is_none()) b.emplace(bias, "bias").shaped(outputs);
    if (!residual.is_none()) r.emplace(residual, "residual").shaped(rows, outputs);
    const Output y(out, "out");
    y.shaped(rows, outputs);
    const Linear args{in.data(), w.data(), bf16, b ? b->data() : nullptr, r ? r->data() : nullptr, static_cast<Activation>(activation),
                      y.data(), rows, inputs, outputs, fast};
    runtime.operate(
        rows * inputs * outputs, [=](Pool& pool, const Kernels& kernels) { kernels.linear(pool, args); },
        Reads{w.data(), inputs * outputs * (bf16 ? 2 : 4)});
}

void add_low_rank(Runtime& runtime, nb::handle x, nb::list updates, bool bf16) {
    const Floats in(x, "x");
    check_width(in);
    std::vector<LowRank> made;
    int64_t cost = 0;
    for (nb::handle update : updates) {
        const nb::tuple fields = nb::cast<nb::tuple>(update);
        if (fields.size() != 5) refuse("an update has rows, a, b, scale and out");
        const Output out(fields[4], "out");
        out.shaped(in.dim(0), -1);
        made.push_back(update_of(fields, out.data(), in.dim(0), in.dim(1), out.dim(1), bf16));
        cost += made.back().count * made.back().rank * (in.dim(1) + made.back().outputs);
    }
    if (made.empty()) return;
    const Reads reads{made[0].a, made[0].rank * in.dim(1) * (bf16 ? 2 : 4)};
    runtime.operate(
        cost,
        [made, bf16, from = in.data(), height = in.dim(0), inputs = in.dim(1)](Pool& pool, const Kernels& kernels) {
            check_rows(made, height);
            kernels.add_low_rank(pool, LowRanks{from, made.data(), static_cast<int64_t>(made.size()), inputs, bf16});
        },
        reads);
}

void activation(Runtime& runtime, nb::handle x, int kind, nb::handle out) {
    const Floats in(x, "x");
    in.shaped(-1, -1);
    const Output y(out, "out");
    y.shaped(in.dim(0), in.dim(1));
    if (kind < 1 || kind > 3) refuse("there is no activation with number " + std::to_string(kind));
    const Activate args{in.data(), y.data(), in.size(), static_cast<Activation>(kind)};
    runtime.operate(4 * y.size(), [=](Pool& pool, const Kernels& kernels) { kernels.apply_activation(pool, args); });
}

// Rows to look up: float32, bfloat16 as its bits, or float16; the array's own type tells which.
struct Table {
    explicit Table(nb::handle object) {
        if (has_type<Float16>(object)) {
            type = Stored::float16;
            take(float16.emplace(object, "table"));
        } else if (has_type<uint16_t>(object)) {
            type = Stored::bfloat16;
            take(bfloat16.emplace(object, "table"));
        } else {
            take(float32.emplace(object, "table"));
        }
    }
    template <class T>
    void take(const Array<T>& array) {
        array.shaped(-1, -1);
        data = array.data(), rows = array.dim(0), width = array.dim(1);
    }

    Stored type = Stored::float32;
    const void* data;
    int64_t rows, width;
    std::optional<Array<const Float16>> float16;
    std::optional<Array<const uint16_t>> bfloat16;
    std::optional<Floats> float32;
};

void embed_rows(Runtime& runtime, nb::handle table, nb::handle ids, nb::handle out) {
    const Table t(table);
    const Ints rows(ids, "ids");
    rows.shaped(-1);
    const Output y(out, "out");
    y.shaped(rows.size(), t.width);
    runtime.operate(y.size(), [type = t.type, values = t.data, known = t.rows, width = t.width, chosen = rows.data(), n = rows.size(),
                               to = y.data()](Pool& pool, const Kernels&) {
        check_indices(chosen, n, "ids", known);
        embed(pool, values, type, chosen, n, width, to);
    });
}

void take(Runtime& runtime, nb::handle x, nb::handle rows, nb::handle out) {
    const Floats in(x, "x");
    in.shaped(-1, -1);
    const Ints chosen(rows, "rows");
    chosen.shaped(-1);
    const Output y(out, "out");
    y.shaped(chosen.size(), in.dim(1));
    runtime.operate(y.size(), [from = in.data(), height = in.dim(0), width = in.dim(1), wanted = chosen.data(), n = chosen.size(),
                               to = y.data()](Pool& pool, const Kernels&) {
        check_indices(wanted, n, "rows", height);
        take_rows(pool, from, wanted, n, width, to);
    });
}

void put(Runtime& runtime, nb::handle x, nb::handle rows, nb::handle values) {
    const Output into(x, "x");
    into.shaped(-1, -1);
    const Ints chosen(rows, "rows");
    chosen.shaped(-1);
    const Floats v(values, "values");
    v.shaped(chosen.size(), into.dim(1));
    runtime.operate(v.size(), [to = into.data(), height = into.dim(0), width = into.dim(1), wanted = chosen.data(), n = chosen.size(),
                               from = v.data()](Pool&, const Kernels&) {
        check_indices(wanted, n, "rows", height);
        put_rows(to, wanted, n, width, from);
    });
}

void rms_norm(Runtime& runtime, nb::handle x, nb::handle weight, float eps, nb::handle out) {
    const Floats in(x, "x"), w(weight, "weight");
    check_width(in);
    w.shaped(in.dim(1));
    const Output y(out, "out");
    y.shaped(in.dim(0), in.dim(1));
    const RmsNorm args{in.data(), w.data(), y.data(), in.dim(0), in.dim(1), eps};
    runtime.operate(y.size(), [=](Pool& pool, const Kernels& kernels) { kernels.rms_norm(pool, args); });
}

void layer_norm(Runtime& runtime, nb::handle x, nb::handle weight, nb::handle bias, float eps, nb::handle out) {
    const Floats in(x, "x"), w(weight, "weight"), b(bias, "bias");
    check_width(in);
    w.shaped(in.dim(1));
    b.shaped(in.dim(1));
    const Output y(out, "out");
    y.shaped(in.dim(0), in.dim(1));
    const LayerNorm args{in.data(), w.data(), b.data(), y.data(), in.dim(0), in.dim(1), eps};
    runtime.operate(y.size(), [=](Pool& pool, const Kernels& kernels) { kernels.layer_norm(pool, args); });
}

void gated_rms_norm(Runtime& runtime, nb::handle x, nb::handle z, nb::handle weight, float eps, nb::handle out) {
    const Floats in(x, "x"), gate(z, "z"), w(weight, "weight");
    in.shaped(-1, -1);
    gate.shaped(in.dim(0), in.dim(1));
    w.shaped(-1);
    if (w.dim(0) == 0 || in.dim(1) % w.dim(0) != 0)
        refuse("x has " + std::to_string(in.dim(1)) + " columns, no multiple of the " + std::to_string(w.dim(0)) + " of weight");
    const Output y(out, "out");
    y.shaped(in.dim(0), in.dim(1));
    const GatedRmsNorm args{in.data(), gate.data(), w.data(), y.data(), in.size() / w.dim(0), w.dim(0), eps};
    runtime.operate(2 * y.size(), [=](Pool& pool, const Kernels& kernels) { kernels.gated_rms_norm(pool, args); });
}

template <auto kernel>
void pointwise(Runtime& runtime, nb::handle gate, nb::handle x, nb::handle out) {
    const Floats g(gate, "gate"), in(x, "x");
    in.shaped(-1, -1);
    g.shaped(in.dim(0), in.dim(1));
    const Output y(out, "out");
    y.shaped(in.dim(0), in.dim(1));
    const Pointwise args{g.data(), in.data(), y.data(), in.size()};
    runtime.operate(2 * y.size(), [=](Pool& pool, const Kernels& kernels) { (kernels.*kernel)(pool, args); });
}

void regroup(Runtime& runtime, nb::handle x, nb::handle sizes, nb::handle offsets, nb::handle out) {
    const Floats in(x, "x");
    in.shaped(-1, -1);
    const Ints s(sizes, "sizes"), o(offsets, "offsets");
    s.shaped(-1, 2);
    const int64_t views = s.dim(0), channels = in.dim(1);
    o.shaped(views + 1);
    int64_t rows = 0;
    for (int64_t v = 0; v < views; ++v) {
        const int64_t height = s.data()[2 * v], width = s.data()[2 * v + 1];
        if (height < 2 || width < 2 || height % 2 || width % 2)
            refuse("sizes[" + std::to_string(v) + "] is " + std::to_string(height) + " x " + std::to_string(width) +
                   ": both sides must be even and positive");
        if (o.data()[v] != rows) refuse("offsets do not fit sizes");
        rows += height * width;
    }
    if (rows != in.dim(0)) refuse("sizes cover " + std::to_string(rows) + " rows, x has " + std::to_string(in.dim(0)));
    const Output y(out, "out");
    y.shaped(rows / 4, 4 * channels);
    runtime.run(y.size(), [&](Pool& pool, const Kernels&) { regroup_2x2(pool, in.data(), s.data(), o.data(), views, channels, y.data()); });
}

void mean(Runtime& runtime, nb::handle x, nb::handle out) {
    const Floats in(x, "x");
    in.shaped(-1, -1);
    if (in.dim(1) % 4) refuse("x has " + std::to_string(in.dim(1)) + " columns, no multiple of 4");
    const Output y(out, "out");
    y.shaped(in.dim(0), in.dim(1) / 4);
    runtime.run(in.size(), [&](Pool& pool, const Kernels&) { window_mean(pool, in.data(), in.dim(0), in.dim(1) / 4, y.data()); });
}

}  // namespace

void bind_dense(nb::class_<Runtime>& runtime) {
    runtime
        .def("linear", &linear, nb::arg("x"), nb::arg("weight"), nb::arg("bf16"), nb::arg("bias").none(), nb::arg("residual").none(),
             nb::arg("activation"), nb::arg("fast"), nb::arg("out"))
        .def("add_low_rank", &add_low_rank)
        .def("activate", &activation)
        .def("embed", &embed_rows)
        .def("take", &take)
        .def("put", &put)
        .def("rms_norm", &rms_norm)
        .def("layer_norm", &layer_norm)
        .def("gated_rms_norm", &gated_rms_norm)
        .def("swiglu", &pointwise<&Kernels::swiglu>)
        .def("sigmoid_gate", &pointwise<&Kernels::sigmoid_gate>)
        .def("regroup_2x2", &regroup)
        .def("window_mean", &mean);
}

}  // namespace pocketvlm
