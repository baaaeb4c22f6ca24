// Low-rank updates of quantized products: tasks of the products' own loop, so they cost no start of the threads.
#pragma once

#include "lowrank/updates.h"
#include "quantized/quantized.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

// The updates of `count` products of the same rows x, which are those after an operation.
inline LowRanks updates_of(const QuantizedProduct* products, int64_t count, const float* x) {
    LowRanks all{.x = x, .updates = products->updates, .number = 0, .inputs = products->args.inputs, .bf16 = products->bf16_updates};
    for (int64_t i = 0; i < count; ++i) all.number += products[i].update_count;
    return all;
}

// The first tasks of a loop are those of `inner`; each task of a product then calls add() for the outputs that it has written.
struct ProductUpdates {
    const QuantizedProduct* products;
    InnerProducts inner;

    ProductUpdates(const Pool& pool, const QuantizedProduct* list, const LowRanks& updates, float* memory)
        : products(list), inner(pool, updates, memory) {}

    bool any(int64_t product) const { return products[product].update_count > 0; }

    // Waits for the inner products. The block's first column begins a block of 32 outputs.
    void add(int64_t product, const OutputBlock& to) const {
        if (!any(product)) return;
        inner.wait();
        int64_t before = 0;
        for (int64_t i = 0; i < product; ++i) before += products[i].update_count;
        for (int64_t i = 0; i < products[product].update_count; ++i)
            add_update(products[product].updates[i], products[product].bf16_updates, inner.of(before + i), to);
    }

    // Prefetches what add() reads first of the columns from `column` on.
    void prefetch(int64_t product, int64_t column) const {
        const QuantizedProduct& p = products[product];
        for (int64_t i = 0; i < p.update_count; ++i) prefetch_update(p.updates[i], p.bf16_updates, column);
    }
};

}  // namespace
}  // namespace pocketvlm::POCKETVLM_ISA
