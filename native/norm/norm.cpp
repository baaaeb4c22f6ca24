// RMS norm, layer norm and gated RMS norm, one row at a time.
#include "norm/norm.h"
#include "norm/rows.h"
#include "simd/parallel.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

constexpr int64_t min_work = 8192;  // floats from which on another thread is worth its start

template <class Body>
inline void each_row(Pool& pool, int64_t rows, int64_t width, const Body& body) {
    parallel_ranges(pool, rows, min_work / width, [&](int64_t first, int64_t last) {
        for (int64_t r = first; r < last; ++r) body(r * width);
    });
}

}  // namespace

void rms_norm(Pool& pool, const RmsNorm& a) {
    each_row(pool, a.rows, a.width, [&](int64_t at) {
        rms_norm_row(a.x + at, a.weight, rms_statistics(a.x + at, a.width, a.eps), 0, a.width, a.out + at);
    });
}

void layer_norm(Pool& pool, const LayerNorm& a) {
    each_row(pool, a.rows, a.width, [&](int64_t at) {
        layer_norm_row(a.x + at, a.weight, a.bias, layer_statistics(a.x + at, a.width, a.eps), 0, a.width, a.out + at);
    });
}

void gated_rms_norm(Pool& pool, const GatedRmsNorm& a) {
    each_row(pool, a.rows, a.width, [&](int64_t at) {
        gated_rms_norm_row(a.x + at, a.z + at, a.weight, rms_statistics(a.x + at, a.width, a.eps), 0, a.width, a.out + at);
    });
}

}  // namespace pocketvlm::POCKETVLM_ISA
