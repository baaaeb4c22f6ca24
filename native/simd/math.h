// exp and the activations built on it, accurate to about 2 units in the last place.
#pragma once

#include "simd/simd.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

// e^x = 2^n e^r with |r| <= ln(2) / 2; NaN stays NaN, overflow gives infinity, underflow goes through the subnormals to 0.
inline Vec exp(Vec x) {
    x = vmin(splat(90.0f), vmax(splat(-105.0f), x));
    const Vec shift = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to a whole number
    const Vec n = fma(x, splat(1.44269504f), shift) - shift;
    Vec r = fma(n, splat(-0.693359375f), x);
    r = fma(n, splat(2.12194440e-4f), r);
    Vec p = splat(0.001381446490995586f);
    p = fma(p, r, splat(0.008368780836462975f));
    p = fma(p, r, splat(0.04166839271783829f));
    p = fma(p, r, splat(0.1666651964187622f));
    p = fma(p, r, splat(0.4999999403953552f));
    p = fma(p * r, r, r) + splat(1.0f);
    return scale_by_power(p, n);
}

inline Vec sigmoid(Vec x) { return splat(1.0f) / (splat(1.0f) + exp(zero() - x)); }

inline Vec silu(Vec x) { return x / (splat(1.0f) + exp(zero() - x)); }

// x (1 + tanh(u)) / 2 = x sigmoid(2u), which keeps its digits where tanh is close to -1.
inline Vec gelu_tanh(Vec x) {
    const Vec u = x * fma(x * x, splat(0.044715f * 1.5957691216f), splat(1.5957691216f));
    return x / (splat(1.0f) + exp(zero() - u));
}

// The same to 1e-5 of the value, for results that will be rounded to bytes: 2^t with t = -2u / ln(2).
inline Vec rough_gelu_tanh(Vec x) {
    const Vec t = x * fma(x * x, splat(0.044715f * -2.3022082f), splat(-2.3022082f));
    const Vec held = vmin(splat(126.0f), vmax(splat(-126.0f), t)), shift = splat(12582912.0f);
    const Vec n = (held + shift) - shift, r = held - n;
    Vec p = fma(splat(0.00957009f), r, splat(0.05591786f));
    p = fma(p, r, splat(0.24024744f));
    p = fma(p, r, splat(0.69312180f));
    p = fma(p, r, splat(0.99999930f));
    return x / (splat(1.0f) + scale_by_power(p, n));
}

// x Phi(x), from the tail Phi(-a) = exp(-a^2 / 2) t Q(t) with t = 1 / (1 + 0.35 a), a = |x| (polynomial fitted here).
inline Vec gelu_erf(Vec x) {
    const Vec a = vabs(x);
    const Vec t = splat(1.0f) / fma(a, splat(0.35f), splat(1.0f));
    Vec q = splat(-0.02916392683982849f);
    q = fma(q, t, splat(0.14406080543994904f));
    q = fma(q, t, splat(-0.25590187311172485f));
    q = fma(q, t, splat(0.15939293801784515f));
    q = fma(q, t, splat(-0.023263854905962944f));
    q = fma(q, t, splat(0.10557480901479721f));
    q = fma(q, t, splat(0.11981549859046936f));
    q = fma(q, t, splat(0.13986434042453766f));
    q = fma(q, t, splat(0.13962125778198242f));
    const Vec tail = exp(a * a * splat(-0.5f)) * t * q;
    return x * where_less(x, zero(), tail, splat(1.0f) - tail);
}

}  // namespace
}  // namespace pocketvlm::POCKETVLM_ISA
