#define POCKETVLM_ISA avx2
#include "linear/linear_kernel.h"
