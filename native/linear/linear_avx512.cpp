#define POCKETVLM_ISA avx512
#include "linear/linear_kernel.h"
