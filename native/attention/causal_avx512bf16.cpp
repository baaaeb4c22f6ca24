#define POCKETVLM_ISA avx512bf16
#include "attention/causal_kernel.h"
