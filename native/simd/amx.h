// AMX: products of bytes and of bfloat16 numbers in tile registers. Vectors are those of AVX-512 with VNNI and BF16.
#pragma once

#include "simd/avx512bf16.h"
#include "simd/tiles.h"

#define POCKETVLM_TILE_REGISTERS
#define POCKETVLM_INTEGER_WITHOUT_TILES avx512vnni
#define POCKETVLM_BFLOAT16_WITHOUT_TILES avx512bf16
