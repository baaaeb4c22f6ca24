#define POCKETVLM_ISA avx2
#include "attention/causal_kernel.h"
