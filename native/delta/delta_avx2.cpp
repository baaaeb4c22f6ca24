#define POCKETVLM_ISA avx2
#include "delta/delta_kernel.h"
