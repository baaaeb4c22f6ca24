#define POCKETVLM_ISA avx512
#include "delta/delta_kernel.h"
