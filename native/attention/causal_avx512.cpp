#define POCKETVLM_ISA avx512
#include "attention/causal_kernel.h"
