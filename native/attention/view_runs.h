// Neighbouring views whose products are chosen alike.
#pragma once

#include "attention/attention.h"
#include "simd/simd.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

// Calls body(run, longest, choice) for neighbours of the same choice(rows). A view's own length chooses its products, so that
// it has the same bits alone and in any batch.
template <class Choice, class Body>
inline void for_each_run(const ViewAttention& a, const Choice& choice, const Body& body) {
    const auto rows = [&](int64_t view) { return static_cast<int64_t>(a.offsets[view + 1] - a.offsets[view]); };
    for (int64_t first = 0, end; first < a.views; first = end) {
        const bool chosen = choice(rows(first));
        int64_t longest = 0;
        for (end = first; end < a.views && choice(rows(end)) == chosen; ++end) longest = max(longest, rows(end));
        ViewAttention run = a;
        run.offsets += first, run.views = end - first;
        body(run, longest, chosen);
    }
}

}  // namespace
}  // namespace pocketvlm::POCKETVLM_ISA
