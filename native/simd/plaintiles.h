// For tests: the code for tile registers with plain C++ in their place, so that it runs on any machine with AVX-512 (VNNI, BF16).
#pragma once

#include "simd/avx512bf16.h"

#define POCKETVLM_PLAIN_TILES
#include "simd/tiles.h"

#define POCKETVLM_TILE_REGISTERS
#define POCKETVLM_INTEGER_WITHOUT_TILES avx512vnni
#define POCKETVLM_BFLOAT16_WITHOUT_TILES avx512bf16
