// SwiGLU, the sigmoid gate and activations alone, one vector at a time.
#include "pointwise/pointwise.h"
#include "linear/epilogue.h"
#include "simd/parallel.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

template <class Function>
inline void each(Pool& pool, const Pointwise& a, const Function& f) {
    parallel_ranges(pool, a.count, 16384, [&](int64_t first, int64_t last) {
        int64_t i = first;
        for (; i + W <= last; i += W) store(a.out + i, f(load(a.gate + i)) * load(a.x + i));
        if (i < last) store_part(a.out + i, f(load_part(a.gate + i, last - i)) * load_part(a.x + i, last - i), last - i);
    });
}

}  // namespace

void swiglu(Pool& pool, const Pointwise& a) {
    each(pool, a, [](Vec v) { return silu(v); });
}

void sigmoid_gate(Pool& pool, const Pointwise& a) {
    each(pool, a, [](Vec v) { return sigmoid(v); });
}

void apply_activation(Pool& pool, const Activate& a) {
    parallel_ranges(pool, a.count, 4096, [&](int64_t first, int64_t last) {
        int64_t i = first;
        for (; i + W <= last; i += W) store(a.out + i, activate<false>(load(a.x + i), a.activation));
        if (i < last) store_part(a.out + i, activate<false>(load_part(a.x + i, last - i), a.activation), last - i);
    });
}

}  // namespace pocketvlm::POCKETVLM_ISA
