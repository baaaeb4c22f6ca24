#define POCKETVLM_ISA avx2
#include "norm/norm_kernel.h"
