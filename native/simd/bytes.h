// Sums of products of bytes: the integer half of the instruction set that this file is compiled for.
//
// A Bytes holds four neighbouring inputs for each of W outputs; Counts holds W sums. dot8 takes weights stored as value + 128
// and signed inputs and adds sum((value + dot8_excess) * input): instructions that want unsigned weights leave the 128 in,
// which the caller takes away again with the sum of the inputs. dot4 takes weights 0..15 as they are.
#pragma once

#include "simd/simd.h"

#if POCKETVLM_ISA_NUMBER(POCKETVLM_ISA) >= POCKETVLM_ISA_avx512vnni
#include "simd/bytes_avx512vnni.h"
#elif POCKETVLM_ISA_NUMBER(POCKETVLM_ISA) == POCKETVLM_ISA_avx512
#include "simd/bytes_avx512.h"
#elif POCKETVLM_ISA_NUMBER(POCKETVLM_ISA) == POCKETVLM_ISA_avxvnni
#include "simd/bytes_avxvnni.h"
#elif POCKETVLM_ISA_NUMBER(POCKETVLM_ISA) == POCKETVLM_ISA_avx2
#include "simd/bytes_avx2.h"
#elif POCKETVLM_ISA_NUMBER(POCKETVLM_ISA) == POCKETVLM_ISA_neoni8mm
#include "simd/bytes_neoni8mm.h"
#elif POCKETVLM_ISA_NUMBER(POCKETVLM_ISA) == POCKETVLM_ISA_neondot
#include "simd/bytes_neondot.h"
#elif POCKETVLM_ISA_NUMBER(POCKETVLM_ISA) == POCKETVLM_ISA_neon
#include "simd/bytes_neon.h"
#else
#include "simd/bytes_serial.h"
#endif
