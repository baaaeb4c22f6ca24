#define POCKETVLM_ISA avx512
#include "norm/norm_kernel.h"
